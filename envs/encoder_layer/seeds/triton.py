import triton
import triton.language as tl


@triton.jit
def norm_kernel(out, input, residual, weight, bias, rows, width, epsilon, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    inside = (row < rows) & (column < width)
    s = tl.load(input + row * width + column, mask=inside, other=0.0).to(tl.float32)
    s += tl.load(residual + row * width + column, mask=inside, other=0.0).to(tl.float32)
    apart = tl.where(column < width, s - tl.sum(s, 1)[:, None] / width, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(apart * apart, 1)[:, None] / width + epsilon)
    w = tl.load(weight + column, mask=column < width, other=0.0).to(tl.float32)
    b = tl.load(bias + column, mask=column < width, other=0.0).to(tl.float32)
    tl.store(out + row * width + column, (apart * scale * w + b).to(out.dtype.element_ty), mask=inside)


def add_layer_norm(out, input, residual, weight, bias, epsilon):
    rows, width = out.shape
    if rows:
        block = triton.next_power_of_2(width)
        height = 2 if block <= 1024 else 1
        norm_kernel[(triton.cdiv(rows, height),)](
            out, input, residual, weight, bias, rows, width, epsilon, ROWS=height, BLOCK=block, num_warps=4
        )


@triton.jit
def gelu_kernel(out, input, size, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    g = tl.load(input + at, mask=at < size, other=0.0).to(tl.float32)
    tl.store(out + at, (0.5 * g * (1.0 + tl.erf(0.7071067811865476 * g))).to(out.dtype.element_ty), mask=at < size)


def gelu(out, input):
    size = out.numel()
    if size:
        gelu_kernel[(triton.cdiv(size, 2048),)](out, input, size, BLOCK=2048, num_warps=4)


@triton.jit
def attend_kernel(
    out, query, key, value, starts, heads, stride, scale, WIDTH: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr
):
    # One program per block of queries, head and document; most documents are shorter than max_seqlen, for which the grid is made.
    first, head, document = tl.program_id(0) * ROWS, tl.program_id(1), tl.program_id(2)
    begin = tl.load(starts + document)
    length = tl.load(starts + document + 1) - begin
    if first < length:
        m, n, d = first + tl.arange(0, ROWS), tl.arange(0, STEP), tl.arange(0, D)
        row = (begin + m).to(tl.int64)[:, None]
        there = (m < length)[:, None] & (d < WIDTH)[None, :]
        q = tl.load(query + row * stride + head * WIDTH + d[None, :], mask=there, other=0.0)
        highest = tl.full((ROWS,), float("-inf"), tl.float32)
        total = tl.zeros((ROWS,), tl.float32)
        result = tl.zeros((ROWS, D), tl.float32)
        for start in range(0, length, STEP):
            place = (begin + start + n).to(tl.int64)[:, None] * stride + head * WIDTH + d[None, :]
            live = (start + n < length)[:, None] & (d < WIDTH)[None, :]
            k = tl.load(key + place, mask=live, other=0.0)
            score = tl.dot(q, tl.trans(k), input_precision="ieee") * (scale * 1.4426950408889634)
            score = tl.where((start + n < length)[None, :], score, float("-inf"))
            above = tl.maximum(highest, tl.max(score, 1))
            shrink = tl.exp2(highest - above)
            p = tl.exp2(score - above[:, None])
            total = total * shrink + tl.sum(p, 1)
            v = tl.load(value + place, mask=live, other=0.0)
            result = tl.dot(p.to(v.dtype), v, result * shrink[:, None], input_precision="ieee")
            highest = above
        target = out + (row * heads + head) * WIDTH + d[None, :]
        tl.store(target, (result / total[:, None]).to(out.dtype.element_ty), mask=there)


def varlen_attention(out, query, key, value, cu_seqlens, max_seqlen):
    tokens, heads, width = query.shape
    if tokens:
        rows = 16 if max_seqlen <= 16 else 32 if max_seqlen <= 32 else 64 if max_seqlen <= 256 or query.element_size() > 2 else 128
        attend_kernel[(triton.cdiv(max_seqlen, rows), heads, cu_seqlens.shape[0] - 1)](
            out, query, key, value, cu_seqlens, heads, query.stride(0), width**-0.5, WIDTH=width,
            D=max(triton.next_power_of_2(width), 16), ROWS=rows, STEP=min(rows, 64), num_warps=8 if rows == 128 else 4,
        )  # fmt: skip
