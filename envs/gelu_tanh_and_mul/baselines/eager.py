"""Two PyTorch calls, as vLLM's fallback makes them."""

import torch


def gelu_tanh_and_mul(out, input):
    gate, up = input.chunk(2, dim=-1)
    torch.mul(torch.nn.functional.gelu(gate, approximate="tanh"), up, out=out)
