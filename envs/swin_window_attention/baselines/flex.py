"""FlexAttention, compiled: norms, bias and mask are applied to the scores of the products, so that nothing is rounded before them."""

import math

import torch
from torch.nn.attention.flex_attention import flex_attention


def prepare(out, qkv, logit_scale, bias_table, mask, window_size, shifted):
    return _expanded(logit_scale, bias_table, window_size)


def swin_window_attention(out, qkv, logit_scale, bias_table, mask, window_size, shifted, prepared=None):
    scale, bias = _expanded(logit_scale, bias_table, window_size) if prepared is None else prepared
    q, k, v = qkv.unflatten(-1, (3, logit_scale.shape[0], -1)).permute(2, 0, 3, 1, 4)
    q_factor, k_factor = (1 / torch.linalg.vector_norm(x.float(), dim=-1).clamp_min(1e-12) for x in (q, k))
    q_factor, windows = q_factor * scale, mask.shape[0]

    def modify(score, window, head, i, j):
        score = score * q_factor[window, head, i] * k_factor[window, head, j] + bias[head, i, j]
        return score + mask[window % windows, i, j] if shifted else score

    out.copy_(flex_attention(q, k, v, score_mod=modify, scale=1.0).transpose(1, 2).flatten(2))


def _expanded(logit_scale, bias_table, side):
    """Scales ``[H, 1]`` and the bias of every pair of tokens ``[H, N, N]``."""
    token = torch.arange(side * side, device=bias_table.device)
    rows, columns = (x.unsqueeze(1) - x + side - 1 for x in (token // side, token % side))
    bias = 16 * bias_table.sigmoid()[rows * (2 * side - 1) + columns].permute(2, 0, 1).contiguous()
    return logit_scale.clamp(max=math.log(100.0)).exp().view(-1, 1), bias
