"""The sum and the norm in float32, then the quantisation, in PyTorch: vLLM's fallback without its rounding in between."""

import torch


def add_rms_norm_fp8(result, input, weight, scale, epsilon, residual):
    total = input.float() + residual.float()
    residual.copy_(total)
    if torch.compiler.is_compiling() and input.device.type == "cpu":
        # Inductor's C++ code generator fails (KeyError) where an argument is mutated around a reduction over it.
        torch._dynamo.graph_break()
    normed = torch.nn.functional.rms_norm(total, (total.shape[-1],), weight.float(), epsilon).unflatten(-1, (-1, 128))
    scales = (normed.abs().amax(-1) / 448.0).clamp_min(1 / (448.0 * 512.0))
    scale.copy_(scales)
    result.copy_((normed / scales.unsqueeze(-1)).clamp(-448.0, 448.0).flatten(-2))
