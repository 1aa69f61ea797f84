"""PyTorch's elementwise operations in the cache's float32, as vLLM's fallback applies them."""

import torch


def rope(positions, query, key, head_size, cos_sin_cache, is_neox):
    cos, sin = cos_sin_cache.index_select(0, positions).unsqueeze(1).chunk(2, dim=-1)
    for x in (query, key):
        heads = x.unflatten(-1, (-1, head_size))
        a, b = heads.chunk(2, dim=-1) if is_neox else (heads[..., ::2], heads[..., 1::2])
        turned = (a * cos - b * sin, b * cos + a * sin)
        x.copy_((torch.cat(turned, dim=-1) if is_neox else torch.stack(turned, dim=-1)).flatten(1))
