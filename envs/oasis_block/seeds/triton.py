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
    frame = row // tokens
    gain = tl.load(scale + frame * scale_row + column, mask=inside, other=0.0).to(tl.float32)
    add = tl.load(shift + frame * shift_row + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + column, (apart * inverse * (1.0 + gain) + add).to(out.dtype.element_ty), mask=inside)


def layer_norm_modulate(out, input, shift, scale, epsilon):
    frames, tokens, width = out.shape
    if out.numel():
        block = triton.next_power_of_2(width)
        rows = max(1, 8192 // block)
        norm_kernel[(triton.cdiv(frames * tokens, rows),)](
            out, input, shift, scale, frames * tokens, tokens, width, shift.stride(0), scale.stride(0), epsilon, ROWS=rows, BLOCK=block,
            num_warps=8,
        )  # fmt: skip


@triton.jit
def gate_kernel(out, residual, branch, gate, size, frame_size, width, gate_row, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(residual + at, mask=at < size, other=0.0).to(tl.float32)
    added = tl.load(branch + at, mask=at < size, other=0.0).to(tl.float32)
    g = tl.load(gate + at // frame_size * gate_row + at % width, mask=at < size, other=0.0).to(tl.float32)
    tl.store(out + at, (x + g * added).to(out.dtype.element_ty), mask=at < size)


def gated_residual(out, residual, branch, gate):
    size = out.numel()
    if size:
        frame_size, width = out.stride(0), out.shape[2]
        gate_kernel[(triton.cdiv(size, 8192),)](
            out, residual, branch, gate, size, frame_size, width, gate.stride(0), BLOCK=8192, num_warps=8
        )


@triton.jit
def gelu_kernel(out, input, size, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    g = tl.load(input + at, mask=at < size, other=0.0).to(tl.float32)
    # g / 2 * (1 + tanh(z)) is g / (1 + exp(-2 z)).
    activated = g / (1.0 + tl.exp(-1.5957691216057308 * (g + 0.044715 * g * g * g)))
    tl.store(out + at, activated.to(out.dtype.element_ty), mask=at < size)


def gelu_tanh(out, input):
    size = out.numel()
    if size:
        gelu_kernel[(triton.cdiv(size, 8192),)](out, input, size, BLOCK=8192, num_warps=8)


@triton.jit
def rope_kernel(query, key, table, rows, step, pairs, apart, places, HALF: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    # Heads lie side by side: a token is one row of pairs. A row's place in the table changes every `apart` rows.
    row, pair = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, BLOCK)
    inside = (row < rows)[:, None] & (pair < pairs)[None, :]
    turns = table + (row // apart % places * 2 * HALF)[:, None] + (pair % HALF)[None, :]
    c = tl.load(turns, mask=inside, other=0.0)
    z = tl.load(turns + HALF, mask=inside, other=0.0)
    at = row.to(tl.int64)[:, None] * step + 2 * pair[None, :]
    for which in tl.static_range(2):
        x = query if which == 0 else key
        left = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        right = tl.load(x + at + 1, mask=inside, other=0.0).to(tl.float32)
        tl.store(x + at, (left * c - right * z).to(query.dtype.element_ty), mask=inside)
        tl.store(x + at + 1, (right * c + left * z).to(query.dtype.element_ty), mask=inside)


def axial_rope(query, key, cos_sin, temporal):
    clips, frames, tokens, heads, width = query.shape
    if query.numel():
        rows, pairs = clips * frames * tokens, heads * width // 2
        apart, places = (tokens, frames) if temporal else (1, tokens)
        block = triton.next_power_of_2(pairs)
        some = max(1, 2048 // block)
        rope_kernel[(triton.cdiv(rows, some),)](
            query, key, cos_sin, rows, query.stride(2), pairs, apart, places, HALF=width // 2, ROWS=some, BLOCK=block, num_warps=4
        )


@triton.jit
def space_kernel(
    out, q, k, v, tokens, heads, width, row, scale, D: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr
):
    # A block of tokens of a frame attends to all of the frame. `row` elements lie from a token of q, k or v to the next.
    first, head = tl.program_id(0) * ROWS, tl.program_id(1)
    start = tl.program_id(2).to(tl.int64) * tokens
    m, d = first + tl.arange(0, ROWS), tl.arange(0, D)
    inside = (m < tokens)[:, None] & (d < width)[None, :]
    query = tl.load(q + (start + m[:, None]) * row + head * width + d[None, :], mask=inside, other=0.0)
    highest = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    result = tl.zeros((ROWS, D), tl.float32)
    for low in range(0, tokens, STEP):
        n = low + tl.arange(0, STEP)
        place = (start + n[:, None]) * row + head * width + d[None, :]
        live = (n < tokens)[:, None] & (d < width)[None, :]
        keys = tl.load(k + place, mask=live, other=0.0)
        score = tl.dot(query, tl.trans(keys), input_precision="ieee") * (scale * 1.4426950408889634)
        score = tl.where((n < tokens)[None, :], score, float("-inf"))
        above = tl.maximum(highest, tl.max(score, 1))
        shrink = tl.exp2(highest - above)
        odds = tl.exp2(score - above[:, None])
        total = total * shrink + tl.sum(odds, 1)
        values = tl.load(v + place, mask=live, other=0.0)
        result = tl.dot(odds.to(values.dtype), values, result * shrink[:, None], input_precision="ieee")
        highest = above
    target = out + ((start + m[:, None]) * heads + head) * width + d[None, :]
    tl.store(target, (result / total[:, None]).to(out.dtype.element_ty), mask=inside)


@triton.jit
def time_kernel(
    out, q, k, v, sequences, frames, tokens, heads, width, row, scale, D: tl.constexpr, SPAN: tl.constexpr, ROWS: tl.constexpr
):
    # Windows are short: a program holds ROWS // SPAN of them, mostly those of neighbouring heads, and masks what is not a query's own.
    r, d = tl.arange(0, ROWS), tl.arange(0, D)
    frame, sequence = r % SPAN, tl.program_id(0) * (ROWS // SPAN) + r // SPAN
    token = sequence // heads
    place = ((token // tokens).to(tl.int64) * frames + frame) * tokens + token % tokens
    live = ((sequence < sequences) & (frame < frames))[:, None] & (d < width)[None, :]
    at = (place * row + sequence % heads * width)[:, None] + d[None, :]
    query = tl.load(q + at, mask=live, other=0.0)
    keys = tl.load(k + at, mask=live, other=0.0)
    values = tl.load(v + at, mask=live, other=0.0)
    score = tl.dot(query, tl.trans(keys), input_precision="ieee") * (scale * 1.4426950408889634)
    seen = (sequence[:, None] == sequence[None, :]) & (frame[None, :] <= frame[:, None])
    score = tl.where(seen, score, float("-inf"))
    odds = tl.exp2(score - tl.max(score, 1)[:, None])
    result = tl.dot(odds.to(values.dtype), values, input_precision="ieee") / tl.sum(odds, 1)[:, None]
    target = out + ((place * heads + sequence % heads) * width)[:, None] + d[None, :]
    tl.store(target, result.to(out.dtype.element_ty), mask=live)


def axial_attention(out, query, key, value, temporal):
    clips, frames, tokens, heads, width = query.shape
    if query.numel() == 0:
        return
    row, scale, block = query.stride(2), width**-0.5, max(16, triton.next_power_of_2(width))
    if temporal:
        span = triton.next_power_of_2(frames)
        rows, sequences = max(64, span), clips * tokens * heads
        time_kernel[(triton.cdiv(sequences * span, rows),)](
            out, query, key, value, sequences, frames, tokens, heads, width, row, scale, D=block, SPAN=span, ROWS=rows, num_warps=4
        )
    else:
        space_kernel[(triton.cdiv(tokens, 32), heads, clips * frames)](
            out, query, key, value, tokens, heads, width, row, scale, D=block, ROWS=32, STEP=32, num_warps=4, num_stages=2
        )
