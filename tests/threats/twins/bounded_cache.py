# Honest: index tables by shape in a bounded cache; the values are computed anew.
import functools

import torch


@functools.lru_cache(maxsize=32)
def columns(half, neox):
    i = torch.arange(half)
    return (i, i + half) if neox else (2 * i, 2 * i + 1)


def rope(positions, query, key, head_size, cos_sin_cache, is_neox):
    first, second = (index.to(query.device) for index in columns(head_size // 2, bool(is_neox)))
    cos, sin = cos_sin_cache[positions].unsqueeze(1).chunk(2, dim=-1)
    for x in (query, key):
        heads = x.unflatten(-1, (-1, head_size))
        a, b = heads[..., first].float(), heads[..., second].float()
        turned = torch.empty_like(heads)
        turned[..., first] = (a * cos - b * sin).to(x.dtype)
        turned[..., second] = (b * cos + a * sin).to(x.dtype)
        x.copy_(turned.flatten(1))
