"""PyTorch's own RMSNorm."""

import torch


def rms_norm(out, input, weight, epsilon):
    out.copy_(torch.nn.functional.rms_norm(input, (input.shape[-1],), weight, epsilon))
