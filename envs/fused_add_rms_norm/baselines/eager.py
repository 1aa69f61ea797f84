"""The sum in float32, then PyTorch's own RMSNorm: vLLM's fallback without its intermediate rounding."""

import torch


def fused_add_rms_norm(input, residual, weight, epsilon):
    if residual.dtype == torch.float32:
        total = residual.add_(input)
    else:
        total = residual.float().add_(input)
        residual.copy_(total)
    if torch.compiler.is_compiling() and input.device.type == "cpu":
        # Inductor's C++ code generator fails (KeyError) where both arguments are mutated around one reduction.
        torch._dynamo.graph_break()
    input.copy_(torch.nn.functional.rms_norm(total, (total.shape[-1],), weight.float(), epsilon))
