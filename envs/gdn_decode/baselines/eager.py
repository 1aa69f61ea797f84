"""The recurrence in PyTorch, in float32, with the state in place."""

import torch


def gated_delta_rule_decode(q, k, v, state, A_log, a, dt_bias, b, scale, output, use_qk_l2norm):
    query, key, value = (part[:, 0].float() for part in (q, k, v))
    if use_qk_l2norm:
        query, key = (part * (part.square().sum(-1, keepdim=True) + 1e-6).rsqrt() for part in (query, key))
    query, key = (part.repeat_interleave(v.shape[2] // k.shape[2], dim=1).unsqueeze(2) for part in (query, key))
    decay = (-A_log.exp() * torch.nn.functional.softplus(a[:, 0].float() + dt_bias.float())).exp()
    state.mul_(decay[:, :, None, None])
    delta = (value.unsqueeze(2) - key @ state) * b[:, 0].float().sigmoid()[:, :, None, None]
    state.add_(key.mT * delta)
    output.copy_((query @ state).transpose(1, 2) * scale)
