"""PyTorch's sum, as vLLM's operator does it for any number of experts but 2, 3 and 4."""

import torch


def moe_sum(input, output):
    torch.sum(input, dim=1, out=output)
