"""PyTorch's own LayerNorm."""

import torch


def layer_norm(out, input, weight, bias, eps):
    out.copy_(torch.nn.functional.layer_norm(input, weight.shape, weight, bias, eps))
