"""flash-linear-attention's kernel (Triton). It knows no pool of states, and its windows hold W tokens: they are gathered and scattered."""

import torch
from fla.modules.convolution import causal_conv1d_update as update


def plan(x, conv_state, weight, bias, activation, conv_state_indices):
    rows = (conv_state_indices >= 0).nonzero().flatten()
    return rows, conv_state_indices[rows].long()


def causal_conv1d_update(x, conv_state, weight, bias, activation, conv_state_indices, plan):
    rows, slots = plan
    if rows.numel():
        cache = torch.nn.functional.pad(conv_state[slots], (1, 0))
        result, cache = update(x[rows], cache, weight=weight, bias=bias, activation="silu" if activation else None)
        x[rows] = result
        conv_state[slots] = cache[..., 1:]
