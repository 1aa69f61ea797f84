"""Gather the states, the recurrence in PyTorch, scatter.

`plan` finds the entries that are no padding, so that the calls need no host synchronisation.
"""

import torch


def plan(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus, state_batch_indices, out):
    rows = (state_batch_indices >= 0).nonzero().flatten()
    return rows, state_batch_indices[rows].long()


def selective_state_update(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus, state_batch_indices, out, plan):
    rows, slots = plan
    step = dt.float() + dt_bias.float()
    step = torch.nn.functional.softplus(step) if dt_softplus else step
    into, outof = (part.float().repeat_interleave(x.shape[1] // part.shape[1], dim=1) for part in (B, C))
    token = (step[:, :, None] * x.float())[:, :, :, None] * into[:, :, None]
    new = token.index_add(0, rows, state[slots] * (A * step)[rows].exp()[:, :, None, None])
    result = (new @ outof[:, :, :, None]).squeeze(3) + D.float()[:, None] * x.float()
    out.copy_(result * torch.nn.functional.silu(z.float()))
    state[slots] = new[rows]
