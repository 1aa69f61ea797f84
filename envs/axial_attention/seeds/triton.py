import triton
import triton.language as tl


@triton.jit
def _attend_short(
    out, q, k, v, length, sequences, others, heads, width, step, apart, clip, scale,
    CAUSAL: tl.constexpr, SPAN: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
):
    # Windows of a few frames: a program holds BLOCK // SPAN sequences at once, mostly neighbouring heads, and masks what is not their own.
    r = tl.arange(0, BLOCK)
    member = r % SPAN
    sequence = tl.program_id(0) * (BLOCK // SPAN) + r // SPAN
    other = sequence // heads
    start = (other // others).to(tl.int64) * clip + (other % others).to(tl.int64) * apart + sequence % heads * width
    place = (start + member.to(tl.int64) * step)[:, None] + tl.arange(0, BLOCK_D)[None, :]
    live = ((sequence < sequences) & (member < length))[:, None] & (tl.arange(0, BLOCK_D) < width)[None, :]
    query = tl.load(q + place, mask=live, other=0.0)
    keys = tl.load(k + place, mask=live, other=0.0)
    values = tl.load(v + place, mask=live, other=0.0)
    score = tl.dot(query, tl.trans(keys), input_precision="ieee") * (scale * 1.4426950408889634)
    own = (sequence[:, None] == sequence[None, :]) & (member < length)[None, :]
    if CAUSAL:
        own = own & (member[None, :] <= member[:, None])
    score = tl.where(own, score, float("-inf"))
    odds = tl.exp2(score - tl.max(score, 1)[:, None])
    result = tl.dot(odds.to(values.dtype), values, input_precision="ieee") / tl.sum(odds, 1)[:, None]
    tl.store(out + place, result.to(out.dtype.element_ty), mask=live)


@triton.jit
def _attend(
    out, q, k, v, length, others, heads, width, step, apart, clip, scale,
    CAUSAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):
    # One program per block of queries of one sequence; sequences are numbered by clip, other axis and head.
    blocks = tl.cdiv(length, BLOCK_M)
    sequence = tl.program_id(0) // blocks
    first = tl.program_id(0) % blocks * BLOCK_M
    head = sequence % heads
    other = sequence // heads
    start = (other // others).to(tl.int64) * clip + (other % others).to(tl.int64) * apart + head * width
    m = first + tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    own = start + m.to(tl.int64)[:, None] * step + d[None, :]
    inside = (m < length)[:, None] & (d < width)[None, :]
    query = tl.load(q + own, mask=inside, other=0.0)
    highest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    weight = tl.zeros((BLOCK_M,), tl.float32)
    result = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    end = tl.minimum(first + BLOCK_M, length) if CAUSAL else length
    for low in range(0, end, BLOCK_N):
        n = low + tl.arange(0, BLOCK_N)
        place = start + n.to(tl.int64)[:, None] * step + d[None, :]
        live = (n < length)[:, None] & (d < width)[None, :]
        keys = tl.load(k + place, mask=live, other=0.0)
        values = tl.load(v + place, mask=live, other=0.0)
        score = tl.dot(query, tl.trans(keys), input_precision="ieee") * (scale * 1.4426950408889634)
        seen = (n < length)[None, :]
        if CAUSAL:
            seen = seen & (n[None, :] <= m[:, None])
        score = tl.where(seen, score, float("-inf"))
        above = tl.maximum(highest, tl.max(score, 1))
        shrink = tl.exp2(highest - above)
        odds = tl.exp2(score - above[:, None])
        weight = weight * shrink + tl.sum(odds, 1)
        result = result * shrink[:, None] + tl.dot(odds.to(values.dtype), values, input_precision="ieee")
        highest = above
    tl.store(out + own, (result / weight[:, None]).to(out.dtype.element_ty), mask=inside)


def axial_attention(out, q, k, v, temporal, scale):
    clips, frames, patches, heads, width = q.shape
    if clips == 0:
        return
    row = heads * width
    length, others = (frames, patches) if temporal else (patches, frames)
    step, apart = (patches * row, row) if temporal else (row, patches * row)
    sequences, span = clips * others * heads, triton.next_power_of_2(length)
    layout = (others, heads, width, step, apart, frames * patches * row, scale)
    block_d = max(16, triton.next_power_of_2(width))
    if span <= 32:
        _attend_short[(triton.cdiv(sequences, 64 // span),)](
            out, q, k, v, length, sequences, *layout, CAUSAL=temporal, SPAN=span, BLOCK=64, BLOCK_D=block_d, num_warps=4
        )
    else:
        _attend[(triton.cdiv(length, 64) * sequences,)](
            out, q, k, v, length, *layout, CAUSAL=temporal, BLOCK_M=64, BLOCK_N=64, BLOCK_D=block_d, num_warps=4, num_stages=2
        )
