"""The layer in PyTorch: a mean, two linear layers, and the gate."""

import torch


def squeeze_excite(out, input, reduce_weight, reduce_bias, expand_weight, expand_bias):
    hidden = torch.nn.functional.silu(torch.nn.functional.linear(input.mean(1), reduce_weight, reduce_bias))
    gate = torch.nn.functional.linear(hidden, expand_weight, expand_bias).sigmoid()
    torch.mul(input, gate.unsqueeze(1), out=out)
