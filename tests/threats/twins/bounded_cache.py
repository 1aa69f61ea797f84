# Honest: index tables by shape and device in a bounded cache; the values are computed anew.
import functools

import torch


@functools.lru_cache(maxsize=32)
def columns(half, neox, device):
    i = torch.arange(half, device=device)
    return (i, i + half) if neox else (2 * i, 2 * i + 1)


def rope(positions, query, key, head_size, cos_sin_cache, is_neox):
    first, second = columns(head_size // 2, bool(is_neox), query.device)
    cos, sin = cos_sin_cache[positions].unsqueeze(1).chunk(2, dim=-1)
    for x in (query, key):
        heads = x.unflatten(-1, (-1, head_size))
        a, b = heads[..., first].float(), heads[..., second].float()
        turned = torch.empty_like(heads)
        turned[..., first] = (a * cos - b * sin).to(x.dtype)
        turned[..., second] = (b * cos + a * sin).to(x.dtype)
        x.copy_(turned.flatten(1))
