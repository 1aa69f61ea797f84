import triton
import triton.language as tl


@triton.jit
def norm_kernel(
    out, input, shift, scale, rows, tokens, width, shift_row, scale_row, epsilon, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    inside = (row < rows) & (column < width)
    x = tl.load(input + row * width + column, mask=inside, other=0.0).to(tl.float32)
    apart = tl.where(column < width, x - tl.sum(x, 1)[:, None] / width, 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(apart * apart, 1)[:, None] / width + epsilon)
    sample = row // tokens
    gain = tl.load(scale + sample * scale_row + column, mask=inside, other=0.0).to(tl.float32)
    add = tl.load(shift + sample * shift_row + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + column, (apart * inverse * (1.0 + gain) + add).to(out.dtype.element_ty), mask=inside)


def layer_norm_modulate(out, input, shift, scale, epsilon):
    batch, tokens, width = out.shape
    if out.numel():
        norm_kernel[(triton.cdiv(batch * tokens, 4),)](
            out, input, shift, scale, batch * tokens, tokens, width, shift.stride(0), scale.stride(0), epsilon, ROWS=4,
            BLOCK=triton.next_power_of_2(width), num_warps=4,
        )  # fmt: skip


@triton.jit
def gate_kernel(out, residual, branch, gate, size, sample_size, width, gate_row, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(residual + at, mask=at < size, other=0.0).to(tl.float32)
    added = tl.load(branch + at, mask=at < size, other=0.0).to(tl.float32)
    g = tl.load(gate + at // sample_size * gate_row + at % width, mask=at < size, other=0.0).to(tl.float32)
    tl.store(out + at, (x + g * added).to(out.dtype.element_ty), mask=at < size)


def gated_residual(out, residual, branch, gate):
    size = out.numel()
    if size:
        sample_size, width = out.stride(0), out.shape[2]
        gate_kernel[(triton.cdiv(size, 2048),)](out, residual, branch, gate, size, sample_size, width, gate.stride(0), BLOCK=2048)


@triton.jit
def join_kernel(out, mixed, inner, width, channels, inner_row, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    m = tl.load(mixed + row * width + i, mask=i < width, other=0.0).to(tl.float32)
    u = i - width
    g = tl.load(inner + row * inner_row + u, mask=(u >= 0) & (u < channels), other=0.0).to(tl.float32)
    # g / 2 * (1 + tanh(z)) is g / (1 + exp(-2 z)).
    activated = g / (1.0 + tl.exp(-1.5957691216057308 * (g + 0.044715 * g * g * g)))
    value = tl.where(u < 0, m, activated)
    tl.store(out + row * (width + channels) + i, value.to(out.dtype.element_ty), mask=u < channels)


def gelu_tanh_concat(out, mixed, inner):
    rows, width = mixed.shape
    if rows:
        join_kernel[(rows, triton.cdiv(out.shape[1], 2048))](out, mixed, inner, width, inner.shape[1], inner.stride(0), BLOCK=2048)


@triton.jit
def norm_rope_kernel(
    query, key, norm_q, norm_k, table, tokens, heads, sample_step, step, epsilon, HALF: tl.constexpr, HEADS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0)
    head, pair = tl.arange(0, HEADS)[:, None], tl.arange(0, BLOCK)[None, :]
    inside = (head < heads) & (pair < HALF)
    turns = table + token % tokens * 2 * HALF + pair
    c = tl.load(turns, mask=pair < HALF, other=0.0)
    z = tl.load(turns + HALF, mask=pair < HALF, other=0.0)
    start = (token // tokens).to(tl.int64) * sample_step + (token % tokens).to(tl.int64) * step
    place = start + head * 2 * HALF + 2 * pair
    for which in tl.static_range(2):
        x = query if which == 0 else key
        weight = norm_q if which == 0 else norm_k
        left = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
        right = tl.load(x + place + 1, mask=inside, other=0.0).to(tl.float32)
        scale = 1.0 / tl.sqrt(tl.sum(left * left + right * right, 1)[:, None] / (2 * HALF) + epsilon)
        left *= scale * tl.load(weight + 2 * pair, mask=pair < HALF, other=0.0).to(tl.float32)
        right *= scale * tl.load(weight + 2 * pair + 1, mask=pair < HALF, other=0.0).to(tl.float32)
        tl.store(x + place, (left * c - right * z).to(query.dtype.element_ty), mask=inside)
        tl.store(x + place + 1, (right * c + left * z).to(query.dtype.element_ty), mask=inside)


def qk_norm_rope(query, key, norm_q, norm_k, cos_sin, epsilon):
    batch, tokens, heads, width = query.shape
    if query.numel():
        norm_rope_kernel[(batch * tokens,)](
            query, key, norm_q, norm_k, cos_sin, tokens, heads, query.stride(0), query.stride(1), epsilon, HALF=width // 2,
            HEADS=triton.next_power_of_2(heads), BLOCK=triton.next_power_of_2(width // 2), num_warps=4,
        )  # fmt: skip


@triton.jit
def attend_kernel(
    out, q, k, v, length, heads, scale, sample_step, step,
    WIDTH: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr,
):
    first, head, sample = tl.program_id(0) * ROWS, tl.program_id(1), tl.program_id(2).to(tl.int64)
    m, d = first + tl.arange(0, ROWS), tl.arange(0, D)
    start = sample * sample_step + head * WIDTH
    inside = (m < length)[:, None] & (d < WIDTH)[None, :]
    query = tl.load(q + start + m.to(tl.int64)[:, None] * step + d[None, :], mask=inside, other=0.0)
    highest = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    result = tl.zeros((ROWS, D), tl.float32)
    for low in range(0, length, STEP):
        n = low + tl.arange(0, STEP)
        place = start + n.to(tl.int64)[:, None] * step + d[None, :]
        live = (n < length)[:, None] & (d < WIDTH)[None, :]
        keys = tl.load(k + place, mask=live, other=0.0)
        score = tl.dot(query, tl.trans(keys), input_precision="ieee") * (scale * 1.4426950408889634)
        score = tl.where((n < length)[None, :], score, float("-inf"))
        above = tl.maximum(highest, tl.max(score, 1))
        shrink = tl.exp2(highest - above)
        odds = tl.exp2(score - above[:, None])
        total = total * shrink + tl.sum(odds, 1)
        values = tl.load(v + place, mask=live, other=0.0)
        result = tl.dot(odds.to(values.dtype), values, result * shrink[:, None], input_precision="ieee")
        highest = above
    target = out + ((sample * length + m[:, None]) * heads + head) * WIDTH + d[None, :]
    tl.store(target, (result / total[:, None]).to(out.dtype.element_ty), mask=inside)


def attention(out, query, key, value):
    batch, tokens, heads, width = query.shape
    if query.numel():
        wide = query.element_size() > 2
        rows, step = (32, 32) if wide or tokens <= 256 else (128, 64)
        attend_kernel[(triton.cdiv(tokens, rows), heads, batch)](
            out, query, key, value, tokens, heads, width**-0.5, query.stride(0), query.stride(1), WIDTH=width,
            D=max(16, triton.next_power_of_2(width)), ROWS=rows, STEP=step, num_warps=8 if rows == 128 else 4, num_stages=3,
        )  # fmt: skip
