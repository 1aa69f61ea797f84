import triton
import triton.language as tl


@triton.jit
def _attend(
    out, q, k, v, bias, lengths, scale, size, batch, heads, width,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):
    # One program per block of queries, head and sequence. Programs of one head and block, which read the same biases, are neighbours.
    b = tl.program_id(0) % batch
    head = tl.program_id(0) // batch
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    row = heads * width
    start = b.to(tl.int64) * size * row + head * width
    own = start + m[:, None] * row + d[None, :]
    inside = (m < size)[:, None] & (d < width)[None, :]
    query = tl.load(q + own, mask=inside, other=0.0)
    bias_row = bias + (head.to(tl.int64) * size + m) * size
    length = tl.load(lengths + b)
    highest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    weight = tl.zeros((BLOCK_M,), tl.float32)
    result = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for low in range(0, length, BLOCK_N):
        n = low + tl.arange(0, BLOCK_N)
        place = start + n[:, None] * row + d[None, :]
        live = (n < length)[:, None] & (d < width)[None, :]
        keys = tl.load(k + place, mask=live, other=0.0)
        values = tl.load(v + place, mask=live, other=0.0)
        added = tl.load(bias_row[:, None] + n[None, :], mask=(m < size)[:, None] & (n < length)[None, :], other=0.0)
        score = tl.dot(query, tl.trans(keys), input_precision="ieee") * scale + added.to(tl.float32)
        score = tl.where((n < length)[None, :], score * 1.4426950408889634, float("-inf"))
        above = tl.maximum(highest, tl.max(score, 1))
        shrink = tl.exp2(highest - above)
        odds = tl.exp2(score - above[:, None])
        weight = weight * shrink + tl.sum(odds, 1)
        result = tl.dot(odds.to(values.dtype), values, result * shrink[:, None], input_precision="ieee")
        highest = above
    tl.store(out + own, (result / weight[:, None]).to(out.dtype.element_ty), mask=inside)


def bias_attention(out, q, k, v, bias, lengths, scale):
    batch, size, heads, width = q.shape
    if batch == 0:
        return
    wide = q.element_size() > 2
    block_m, block_n = (32, 32) if wide else (64, 64)
    _attend[(batch * heads, triton.cdiv(size, block_m))](
        out, q, k, v, bias, lengths, scale, size, batch, heads, width,
        BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_D=max(16, triton.next_power_of_2(width)), num_warps=4, num_stages=2 if wide else 3,
    )
