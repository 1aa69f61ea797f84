"""PyTorch's elementwise operations in the cache's float32, as vLLM's fallback applies them."""


def rope(positions, query, key, head_size, cos_sin_cache, is_neox):
    cos, sin = cos_sin_cache.index_select(0, positions).unsqueeze(1).chunk(2, dim=-1)
    for x in (query, key):
        heads = x.unflatten(-1, (-1, head_size))
        a, b = heads.chunk(2, dim=-1) if is_neox else (heads[..., ::2], heads[..., 1::2])
        turned_a, turned_b = a * cos - b * sin, b * cos + a * sin
        a.copy_(turned_a)
        b.copy_(turned_b)
