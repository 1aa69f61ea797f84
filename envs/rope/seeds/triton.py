import triton
import triton.language as tl


@triton.jit
def _rotate(x, cos, sin, heads, HEADS: tl.constexpr, HALF: tl.constexpr, NEOX: tl.constexpr):
    head = tl.arange(0, HEADS)[:, None]
    mask = head < heads
    if NEOX:
        first = x + head * (2 * HALF) + tl.arange(0, HALF)[None, :]
        a = tl.load(first, mask=mask, other=0.0).to(tl.float32)
        b = tl.load(first + HALF, mask=mask, other=0.0).to(tl.float32)
        tl.store(first, (a * cos - b * sin).to(x.dtype.element_ty), mask=mask)
        tl.store(first + HALF, (b * cos + a * sin).to(x.dtype.element_ty), mask=mask)
    else:
        # Pairs lie side by side: load whole heads, so that accesses stay contiguous, and take the pairs apart in registers.
        whole = x + head * (2 * HALF) + tl.arange(0, 2 * HALF)[None, :]
        pairs = tl.load(whole, mask=mask, other=0.0).to(tl.float32)
        a, b = tl.split(tl.reshape(pairs, (HEADS, HALF, 2)))
        turned = tl.reshape(tl.join(a * cos - b * sin, b * cos + a * sin), (HEADS, 2 * HALF))
        tl.store(whole, turned.to(x.dtype.element_ty), mask=mask)


@triton.jit
def _rope(
    positions, query, key, cache, query_stride, key_stride, query_heads, key_heads,
    QUERY_HEADS: tl.constexpr, KEY_HEADS: tl.constexpr, HALF: tl.constexpr, NEOX: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    angle = cache + tl.load(positions + token) * (2 * HALF) + tl.arange(0, HALF)
    cos = tl.load(angle)[None, :]
    sin = tl.load(angle + HALF)[None, :]
    _rotate(query + token * query_stride, cos, sin, query_heads, QUERY_HEADS, HALF, NEOX)
    _rotate(key + token * key_stride, cos, sin, key_heads, KEY_HEADS, HALF, NEOX)


def rope(positions, query, key, head_size, cos_sin_cache, is_neox):
    tokens = positions.shape[0]
    if tokens:
        query_heads, key_heads = query.shape[1] // head_size, key.shape[1] // head_size
        query_block, key_block = triton.next_power_of_2(query_heads), triton.next_power_of_2(key_heads)
        # 32 query elements a thread: four 16-byte loads in flight.
        warps = min(8, max(1, query_block * head_size // 1024))
        _rope[(tokens,)](
            positions, query, key, cos_sin_cache, query.stride(0), key.stride(0), query_heads, key_heads,
            QUERY_HEADS=query_block, KEY_HEADS=key_block, HALF=head_size // 2, NEOX=bool(is_neox), num_warps=warps,
        )
