"""The residual in float32 and PyTorch's own LayerNorm: a DiT block without its intermediate rounding."""

import torch


def adaln_modulate(out, residual, branch, gate, scale, shift, eps, gated):
    total = residual.float()
    if gated:
        total = torch.addcmul(total, gate.float().unsqueeze(1), branch.float())
        residual.copy_(total)
    normed = torch.nn.functional.layer_norm(total, total.shape[-1:], eps=eps)
    out.copy_(torch.addcmul(shift.float().unsqueeze(1), normed, 1 + scale.float().unsqueeze(1)))
