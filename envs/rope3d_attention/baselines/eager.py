"""The rotation in float32, rounded as in production, then PyTorch's own attention.

`plan` makes the cosines and sines, which all layers of an encoder share.
"""

import torch


def plan(out, q, k, v, position_ids, grid_size, scale):
    return _tables(position_ids, grid_size, q.shape[-1])


def rope3d_attention(out, q, k, v, position_ids, grid_size, scale, plan=None):
    cosine, sine = _tables(position_ids, grid_size, q.shape[-1]) if plan is None else plan
    views = [x.transpose(1, 2) for x in (_rotate(q, cosine, sine), _rotate(k, cosine, sine), v)]
    out.copy_(torch.nn.functional.scaled_dot_product_attention(*views, scale=scale).transpose(1, 2))


def _tables(ids, grid, width):
    """Cosines and sines ``[B, T, 1, width]``: frequencies are tiled, and the channels that are left over stay."""
    count = width // 6
    rate = 10000.0 ** (-torch.arange(count, device=ids.device, dtype=torch.float32) / count)
    places = torch.stack((ids // grid**2, ids % grid**2 // grid, ids % grid), dim=-1)
    angle = (places.unsqueeze(-1) * rate).repeat(1, 1, 1, 2).flatten(-2).unsqueeze(2)
    angle = torch.nn.functional.pad(angle, (0, width - 6 * count))
    return angle.cos(), angle.sin()


def _rotate(x, cosine, sine):
    first, second = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    crossed = torch.stack((-second, first), dim=-1).flatten(-2)
    return (x * cosine + crossed * sine).to(x.dtype)
