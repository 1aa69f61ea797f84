import torch
import triton
import triton.language as tl


@triton.jit
def _rotate(rotated, x, ids, heads, width, grid, rows, COUNT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    # Rows are the heads of all tokens. A channel's partner is its neighbour, its angle goes by its own place in its part.
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    channel = tl.arange(0, BLOCK)[None, :]
    mask = (row < rows) & (channel < width)
    place = tl.load(ids + row // heads, mask=row < rows, other=0)
    part = channel // (2 * COUNT)
    u = tl.where(part == 0, place // (grid * grid), tl.where(part == 1, place % (grid * grid) // grid, place % grid)).to(tl.float32)
    # 13.28771... is the base-2 logarithm of 10000.
    angle = u * tl.exp2((channel % (2 * COUNT) % COUNT).to(tl.float32) * (-13.287712379549449 / COUNT))
    own = tl.load(x + row * width + channel, mask=mask, other=0.0).to(tl.float32)
    other = tl.load(x + row * width + (channel ^ 1), mask=mask, other=0.0).to(tl.float32)
    turned = own * tl.cos(angle) + tl.where(channel % 2 == 0, -other, other) * tl.sin(angle)
    tl.store(rotated + row * width + channel, tl.where(part < 3, turned, own).to(rotated.dtype.element_ty), mask=mask)


@triton.jit
def _attend(
    out, q, k, v, length, heads, width, scale,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):
    clip = tl.program_id(1) // heads
    start = clip.to(tl.int64) * length * heads * width + tl.program_id(1) % heads * width
    step = heads * width
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.arange(0, BLOCK_N)
    d = tl.arange(0, BLOCK_D)
    own = start + m.to(tl.int64)[:, None] * step + d[None, :]
    inside = (m < length)[:, None] & (d < width)[None, :]
    query = tl.load(q + own, mask=inside, other=0.0)
    highest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    weight = tl.zeros((BLOCK_M,), tl.float32)
    result = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for low in range(0, length, BLOCK_N):
        place = start + (low + n).to(tl.int64)[:, None] * step + d[None, :]
        live = (low + n < length)[:, None] & (d < width)[None, :]
        keys = tl.load(k + place, mask=live, other=0.0)
        score = tl.dot(query, tl.trans(keys), input_precision="ieee") * (scale * 1.4426950408889634)
        score = tl.where((low + n < length)[None, :], score, float("-inf"))
        above = tl.maximum(highest, tl.max(score, 1))
        shrink = tl.exp2(highest - above)
        odds = tl.exp2(score - above[:, None])
        weight = weight * shrink + tl.sum(odds, 1)
        values = tl.load(v + place, mask=live, other=0.0)
        result = tl.dot(odds.to(values.dtype), values, result * shrink[:, None], input_precision="ieee")
        highest = above
    tl.store(out + own, (result / weight[:, None]).to(out.dtype.element_ty), mask=inside)


def rope3d_attention(out, q, k, v, position_ids, grid_size, scale):
    clips, tokens, heads, width = q.shape
    rows = clips * tokens * heads
    if rows == 0:
        return
    block_d = max(16, triton.next_power_of_2(width))
    turned_q, turned_k = torch.empty_like(q), torch.empty_like(k)
    height = max(1, 2048 // block_d)
    for target, source in ((turned_q, q), (turned_k, k)):
        _rotate[(triton.cdiv(rows, height),)](
            target, source, position_ids, heads, width, grid_size, rows, COUNT=width // 6, ROWS=height, BLOCK=block_d, num_warps=4
        )
    block_m = 128 if tokens > 64 and q.dtype != torch.float32 else 64
    _attend[(triton.cdiv(tokens, block_m), clips * heads)](
        out, turned_q, turned_k, v, tokens, heads, width, scale,
        BLOCK_M=block_m, BLOCK_N=64, BLOCK_D=block_d, num_warps=8 if block_m == 128 else 4, num_stages=3,
    )
