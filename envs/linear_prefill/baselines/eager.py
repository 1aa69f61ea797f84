"""PyTorch's linear layer: cuBLASLt on a GPU, oneDNN or MKL on a CPU."""

import torch


def linear_prefill(out, x, weight, bias):
    torch.addmm(bias, x, weight.t(), out=out)
