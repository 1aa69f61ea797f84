"""Liger's GroupNorm forward (Triton), for images that lie channel by channel, and PyTorch's SiLU."""

import torch
from liger_kernel.ops.group_norm import group_norm_forward


def group_norm_silu(out, input, num_groups, weight, bias, eps, channels_last):
    images = input.transpose(1, 2).contiguous() if channels_last else input
    normed = group_norm_forward(images, weight.shape[0], num_groups, weight, bias, eps)[0]
    out.copy_(torch.nn.functional.silu(normed.transpose(1, 2) if channels_last else normed))
