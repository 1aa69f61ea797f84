import triton
import triton.language as tl


@triton.jit
def norm_kernel(out, total, input, residual, weight, bias, width, epsilon, BLOCK: tl.constexpr):
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside = column < width
    s = tl.load(input + row * width + column, mask=inside, other=0.0).to(tl.float32)
    s += tl.load(residual + row * width + column, mask=inside, other=0.0).to(tl.float32)
    apart = tl.where(inside, s - tl.sum(s, 0) / width, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(apart * apart, 0) / width + epsilon)
    w = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(total + row * width + column, s.to(total.dtype.element_ty), mask=inside)
    tl.store(out + row * width + column, (apart * scale * w + b).to(out.dtype.element_ty), mask=inside)


def residual_layer_norm(out, total, input, residual, weight, bias, epsilon):
    rows, width = out.shape
    if rows:
        norm_kernel[(rows,)](
            out, total, input, residual, weight, bias, width, epsilon, BLOCK=triton.next_power_of_2(width), num_warps=4
        )


@triton.jit
def gelu_kernel(out, input, size, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    g = tl.load(input + at, mask=at < size, other=0.0).to(tl.float32)
    # g / 2 * (1 + tanh(z)) is g / (1 + exp(-2 z)).
    value = g / (1.0 + tl.exp(-1.5957691216057308 * (g + 0.044715 * g * g * g)))
    tl.store(out + at, value.to(out.dtype.element_ty), mask=at < size)


def gelu_tanh(out, input):
    size = out.numel()
    if size:
        gelu_kernel[(triton.cdiv(size, 2048),)](out, input, size, BLOCK=2048, num_warps=4)


@triton.jit
def rotate_kernel(query, key, cos, sin, heads, stride, HALF: tl.constexpr, HEADS: tl.constexpr, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    head, column = tl.arange(0, HEADS)[:, None], tl.arange(0, BLOCK)[None, :]
    inside = (head < heads) & (column < HALF)
    c = tl.load(cos + token * HALF + column, mask=column < HALF, other=0.0)
    s = tl.load(sin + token * HALF + column, mask=column < HALF, other=0.0)
    place = token * stride + head * (2 * HALF) + column
    q0 = tl.load(query + place, mask=inside, other=0.0).to(tl.float32)
    q1 = tl.load(query + place + HALF, mask=inside, other=0.0).to(tl.float32)
    k0 = tl.load(key + place, mask=inside, other=0.0).to(tl.float32)
    k1 = tl.load(key + place + HALF, mask=inside, other=0.0).to(tl.float32)
    tl.store(query + place, (q0 * c - q1 * s).to(query.dtype.element_ty), mask=inside)
    tl.store(query + place + HALF, (q1 * c + q0 * s).to(query.dtype.element_ty), mask=inside)
    tl.store(key + place, (k0 * c - k1 * s).to(query.dtype.element_ty), mask=inside)
    tl.store(key + place + HALF, (k1 * c + k0 * s).to(query.dtype.element_ty), mask=inside)


def rotate(query, key, cos, sin):
    tokens, heads, width = query.shape
    if tokens:
        rotate_kernel[(tokens,)](
            query, key, cos, sin, heads, query.stride(0), HALF=width // 2, HEADS=triton.next_power_of_2(heads),
            BLOCK=triton.next_power_of_2(width // 2), num_warps=4,
        )  # fmt: skip


@triton.jit
def attend_kernel(
    out, q, k, v, starts, heads, stride, scale,
    WIDTH: tl.constexpr, D: tl.constexpr, REST: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):
    # One program per block of queries, head and sequence. A head size such as 72 is D = 64 channels and REST = 16 more, half of them
    # masked: padding to the next power of two would cost almost twice the work.
    head, sequence = tl.program_id(1), tl.program_id(2)
    begin = tl.load(starts + sequence).to(tl.int64)
    length = (tl.load(starts + sequence + 1) - begin).to(tl.int32)
    first = tl.program_id(0) * BLOCK_M
    if first < length:
        m = first + tl.arange(0, BLOCK_M)
        n = tl.arange(0, BLOCK_N)
        d = tl.arange(0, D)
        row = (begin + m)[:, None]
        there = (m < length)[:, None]
        query = tl.load(q + row * stride + head * WIDTH + d[None, :], mask=there, other=0.0)
        result = tl.zeros((BLOCK_M, D), tl.float32)
        if REST > 0:
            e = D + tl.arange(0, REST)
            more_query = tl.load(q + row * stride + head * WIDTH + e[None, :], mask=there & (e < WIDTH)[None, :], other=0.0)
            more = tl.zeros((BLOCK_M, REST), tl.float32)
        highest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
        weight = tl.zeros((BLOCK_M,), tl.float32)
        for start in range(0, length, BLOCK_N):
            token = (begin + start + n)[:, None]
            live = (start + n < length)[:, None]
            key_row, value_row = k + token * stride + head * WIDTH, v + token * stride + head * WIDTH
            keys = tl.load(key_row + d[None, :], mask=live, other=0.0)
            score = tl.dot(query, tl.trans(keys), input_precision="ieee")
            if REST > 0:
                more_keys = tl.load(key_row + e[None, :], mask=live & (e < WIDTH)[None, :], other=0.0)
                score = tl.dot(more_query, tl.trans(more_keys), score, input_precision="ieee")
            score = tl.where((start + n < length)[None, :], score * (scale * 1.4426950408889634), float("-inf"))
            above = tl.maximum(highest, tl.max(score, 1))
            shrink = tl.exp2(highest - above)
            odds = tl.exp2(score - above[:, None])
            weight = weight * shrink + tl.sum(odds, 1)
            values = tl.load(value_row + d[None, :], mask=live, other=0.0)
            result = tl.dot(odds.to(values.dtype), values, result * shrink[:, None], input_precision="ieee")
            if REST > 0:
                more_values = tl.load(value_row + e[None, :], mask=live & (e < WIDTH)[None, :], other=0.0)
                more = tl.dot(odds.to(values.dtype), more_values, more * shrink[:, None], input_precision="ieee")
            highest = above
        place = out + (row * heads + head) * WIDTH
        tl.store(place + d[None, :], (result / weight[:, None]).to(out.dtype.element_ty), mask=there)
        if REST > 0:
            tl.store(place + e[None, :], (more / weight[:, None]).to(out.dtype.element_ty), mask=there & (e < WIDTH)[None, :])


def varlen_attention(out, query, key, value, cu_seqlens, max_seqlen):
    tokens, heads, width = query.shape
    if tokens == 0:
        return
    whole = triton.next_power_of_2(width + 1) // 2  # the largest power of two that is not above the width
    rest = max(16, triton.next_power_of_2(width - whole)) if width > whole else 0
    wide = query.element_size() > 2
    rows = 64 if wide or max_seqlen <= 64 else 128
    attend_kernel[(triton.cdiv(max_seqlen, rows), heads, cu_seqlens.shape[0] - 1)](
        out, query, key, value, cu_seqlens, heads, query.stride(0), width**-0.5, WIDTH=width, D=whole, REST=rest, BLOCK_M=rows,
        BLOCK_N=32 if wide else 64, num_warps=4 if rows == 64 else 8, num_stages=3,
    )  # fmt: skip
