import triton
import triton.language as tl


@triton.jit
def norm_kernel(out, total, input, residual, weight, width, epsilon, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    x = tl.load(input + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    x += tl.load(residual + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    w = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(total + row * width + columns, x.to(total.dtype.element_ty), mask=inside)
    scale = 1.0 / tl.sqrt(tl.sum(x * x, 0) / width + epsilon)
    tl.store(out + row * width + columns, (x * scale * w).to(out.dtype.element_ty), mask=inside)


def add_rms_norm(out, total, input, residual, weight, epsilon):
    rows, width = input.shape
    if rows:
        block = triton.next_power_of_2(width)
        warps = min(max(block // 512, 1), 16)
        norm_kernel[(rows,)](out, total, input, residual, weight, width, epsilon, BLOCK=block, num_warps=warps)


@triton.jit
def gate_kernel(out, input, width, BLOCK: tl.constexpr):
    row, columns = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    gate = tl.load(input + row * 2 * width + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(input + row * 2 * width + width + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + columns, (gate / (1.0 + tl.exp(-gate)) * up).to(out.dtype.element_ty), mask=inside)


def silu_and_mul(out, input):
    rows, width = out.shape
    if rows:
        gate_kernel[(rows, triton.cdiv(width, 1024))](out, input, width, BLOCK=1024)


@triton.jit
def rotate_kernel(query, key, positions, cos_sin, heads, q_token, q_head, k_token, k_head, HALF: tl.constexpr, BLOCK: tl.constexpr):
    token, head = tl.program_id(0), tl.program_id(1)
    columns = tl.arange(0, BLOCK)
    inside = columns < HALF
    table = cos_sin + tl.load(positions + token).to(tl.int64) * 2 * HALF
    c, s = tl.load(table + columns, mask=inside, other=0.0), tl.load(table + HALF + columns, mask=inside, other=0.0)
    if head < heads:
        x = query + token.to(tl.int64) * q_token + head * q_head
    else:
        x = key + token.to(tl.int64) * k_token + (head - heads) * k_head
    a = tl.load(x + columns, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(x + HALF + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(x + columns, (a * c - b * s).to(query.dtype.element_ty), mask=inside)
    tl.store(x + HALF + columns, (b * c + a * s).to(query.dtype.element_ty), mask=inside)


def rope(query, key, positions, cos_sin):
    tokens, heads, width = query.shape
    if tokens:
        rotate_kernel[(tokens, heads + key.shape[1])](
            query, key, positions, cos_sin, heads, query.stride(0), query.stride(1), key.stride(0), key.stride(1), HALF=width // 2,
            BLOCK=triton.next_power_of_2(width // 2), num_warps=1,
        )  # fmt: skip


@triton.jit
def attend_kernel(
    out, query, key, value, k_cache, v_cache, lengths, scale, heads, groups, q_token, cache_sequence, WIDTH: tl.constexpr,
    BLOCK: tl.constexpr, SHARE: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    sequence, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    rows, columns = tl.arange(0, ROWS), tl.arange(0, BLOCK)
    inside = (rows < SHARE)[:, None] & (columns < WIDTH)[None, :]
    head = group * SHARE + rows
    q = tl.load(query + sequence * q_token + head[:, None] * WIDTH + columns[None, :], mask=inside, other=0.0)
    length = tl.load(lengths + sequence)
    # The new token is the first to be looked at: an empty cache adds nothing to it.
    own = (sequence * groups + group) * WIDTH + columns
    new_key = tl.load(key + own, mask=columns < WIDTH, other=0.0).to(tl.float32)
    new_value = tl.load(value + own, mask=columns < WIDTH, other=0.0).to(tl.float32)
    most = tl.sum(q.to(tl.float32) * new_key[None, :], 1) * scale
    total = tl.full([ROWS], 1.0, tl.float32)
    sums = tl.zeros([ROWS, BLOCK], tl.float32) + new_value[None, :]
    cache = sequence * cache_sequence + group * WIDTH
    for first in range(0, length, STEP):
        entries = first + tl.arange(0, STEP)
        known = (entries < length)[:, None] & (columns < WIDTH)[None, :]
        where = cache + entries[:, None].to(tl.int64) * groups * WIDTH + columns[None, :]
        k = tl.load(k_cache + where, mask=known, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where((entries < length)[None, :], scores, float("-inf"))
        highest = tl.maximum(most, tl.max(scores, 1))
        p = tl.exp(scores - highest[:, None])
        shrink = tl.exp(most - highest)
        v = tl.load(v_cache + where, mask=known, other=0.0)
        sums = sums * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee")
        total, most = total * shrink + tl.sum(p, 1), highest
    target = out + (sequence * heads + head[:, None]) * WIDTH + columns[None, :]
    tl.store(target, (sums / total[:, None]).to(out.dtype.element_ty), mask=inside)


def cached_attention(out, query, key, value, k_cache, v_cache, lengths, scale):
    sequences, heads, width = query.shape
    groups = key.shape[1]
    if sequences:
        attend_kernel[(sequences, groups)](
            out, query, key, value, k_cache, v_cache, lengths, scale, heads, groups, query.stride(0), k_cache.stride(0), WIDTH=width,
            BLOCK=triton.next_power_of_2(width), SHARE=heads // groups, ROWS=max(triton.next_power_of_2(heads // groups), 16), STEP=64,
        )  # fmt: skip
