"""Swin's own window attention in float32: products around a softmax. `prepare` expands the table, as an engine does once a model."""

import math

import torch


def prepare(out, qkv, logit_scale, bias_table, mask, window_size, shifted):
    return _expanded(logit_scale, bias_table, window_size)


def swin_window_attention(out, qkv, logit_scale, bias_table, mask, window_size, shifted, prepared=None):
    scale, bias = _expanded(logit_scale, bias_table, window_size) if prepared is None else prepared
    q, k, v = qkv.float().unflatten(-1, (3, logit_scale.shape[0], -1)).permute(2, 0, 3, 1, 4)
    q, k = (torch.nn.functional.normalize(x, dim=-1) for x in (q, k))
    scores = torch.matmul(q * scale, k.transpose(-1, -2)) + bias
    if shifted:
        scores = (scores.unflatten(0, (-1, mask.shape[0])) + mask.unsqueeze(1)).flatten(0, 1)
    out.copy_(torch.matmul(scores.softmax(-1), v).transpose(1, 2).flatten(2))


def _expanded(logit_scale, bias_table, side):
    """Scales ``[H, 1, 1]`` and the bias of every pair of tokens ``[H, N, N]``."""
    token = torch.arange(side * side, device=bias_table.device)
    rows, columns = (x.unsqueeze(1) - x + side - 1 for x in (token // side, token % side))
    bias = 16 * bias_table.sigmoid()[rows * (2 * side - 1) + columns].permute(2, 0, 1).contiguous()
    return logit_scale.clamp(max=math.log(100.0)).exp().view(-1, 1, 1), bias
