import triton
import triton.language as tl


@triton.jit
def _qk_norm_rope(
    qkv, q_weight, k_weight, cache, positions, row, queries, heads, width, rot, eps,
    NEOX: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr, REST: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None]
    start = qkv + token * row + head * width
    pair, half = tl.arange(0, HALF)[None, :], rot // 2
    live = (head < heads) & (pair < half)
    # A pair's two channels belong to one thread, so that nothing is overwritten before it is read.
    first = pair if NEOX else 2 * pair
    second = pair + half if NEOX else 2 * pair + 1
    a = tl.load(start + first, mask=live, other=0.0).to(tl.float32)
    b = tl.load(start + second, mask=live, other=0.0).to(tl.float32)
    squares = tl.sum(a * a + b * b, 1)
    rest = rot + tl.arange(0, REST)[None, :]
    more = (head < heads) & (rest < width)
    if REST > 1:
        plain = tl.load(start + rest, mask=more, other=0.0).to(tl.float32)
        squares += tl.sum(plain * plain, 1)
    scale = 1.0 / tl.sqrt(squares / width + eps)[:, None]
    query = head < queries
    angle = cache + tl.load(positions + token) * rot + pair
    cos = tl.load(angle, mask=pair < half)
    sin = tl.load(angle + half, mask=pair < half)
    a *= scale * tl.where(query, tl.load(q_weight + first, mask=pair < half), tl.load(k_weight + first, mask=pair < half)).to(tl.float32)
    b *= scale * tl.where(query, tl.load(q_weight + second, mask=pair < half), tl.load(k_weight + second, mask=pair < half)).to(tl.float32)
    tl.store(start + first, (a * cos - b * sin).to(qkv.dtype.element_ty), mask=live)
    tl.store(start + second, (b * cos + a * sin).to(qkv.dtype.element_ty), mask=live)
    if REST > 1:
        gain = tl.where(query, tl.load(q_weight + rest, mask=rest < width), tl.load(k_weight + rest, mask=rest < width)).to(tl.float32)
        tl.store(start + rest, (plain * scale * gain).to(qkv.dtype.element_ty), mask=more)


def fused_qk_norm_rope(
    qkv, num_heads_q, num_heads_k, num_heads_v, head_dim, eps, q_weight, k_weight, cos_sin_cache, is_neox, position_ids
):
    tokens, row = qkv.shape
    if tokens:
        heads, rot = num_heads_q + num_heads_k, cos_sin_cache.shape[1]
        group = min(8, triton.next_power_of_2(heads))  # 8 heads of 128 for 128 threads: one 16-byte access each
        _qk_norm_rope[(tokens, triton.cdiv(heads, group))](
            qkv, q_weight, k_weight, cos_sin_cache, position_ids, row, num_heads_q, heads, head_dim, rot, eps, NEOX=bool(is_neox),
            HEADS=group, HALF=triton.next_power_of_2(rot // 2), REST=triton.next_power_of_2(max(head_dim - rot, 1)), num_warps=4,
        )
