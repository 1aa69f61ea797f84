import torch
import triton
import triton.language as tl


@triton.jit
def _normalised(x, weight, bias, width, eps, inside, channel):
    """Rows of channels, those beyond the width zero before and after."""
    centred = tl.where(inside[None, :], x - tl.sum(x, 1)[:, None] / width, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(centred * centred, 1)[:, None] / width + eps)
    gain = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)
    return centred * scale * gain[None, :] + shift[None, :]


@triton.jit
def _project(
    ab, x, mask, norm, shift, p_in, g_in, pairs, width, eps, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr
):
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    n = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    channel = tl.arange(0, BLOCK)
    inside = channel < width
    values = tl.load(x + row[:, None] * width + channel[None, :], mask=(row < pairs)[:, None] & inside[None, :], other=0.0)
    z = _normalised(values.to(tl.float32), norm, shift, width, eps, inside, channel).to(x.dtype.element_ty)
    place, there = n[None, :] * width + channel[:, None], (n < 2 * width)[None, :] & inside[:, None]
    p = tl.dot(z, tl.load(p_in + place, mask=there, other=0.0), input_precision="ieee")
    g = tl.dot(z, tl.load(g_in + place, mask=there, other=0.0), input_precision="ieee")
    known = tl.load(mask + row, mask=row < pairs, other=0.0).to(tl.float32)
    result = p * tl.sigmoid(g) * known[:, None]
    # Channels first: what follows is one matrix product for every channel.
    target = ab + n[None, :].to(tl.int64) * pairs + row[:, None]
    tl.store(target, result.to(ab.dtype.element_ty), mask=(row < pairs)[:, None] & (n < 2 * width)[None, :])


@triton.jit
def _combine(mixed, ab, pairs, tokens, width, OUTGOING: tl.constexpr, TILE: tl.constexpr, DEPTH: tl.constexpr):
    tiles = tl.cdiv(tokens, TILE)
    i = tl.program_id(0) // tiles * TILE + tl.arange(0, TILE)
    j = tl.program_id(0) % tiles * TILE + tl.arange(0, TILE)
    channel, start = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64) * tokens * tokens
    a, b = ab + channel * pairs + start, ab + (width + channel) * pairs + start
    total = tl.zeros((TILE, TILE), tl.float32)
    for first in range(0, tokens, DEPTH):
        k = first + tl.arange(0, DEPTH)
        if OUTGOING:
            left, right = i[:, None] * tokens + k[None, :], j[None, :] * tokens + k[:, None]
        else:
            left, right = k[None, :] * tokens + i[:, None], k[:, None] * tokens + j[None, :]
        rows = tl.load(a + left, mask=(i < tokens)[:, None] & (k < tokens)[None, :], other=0.0)
        columns = tl.load(b + right, mask=(k < tokens)[:, None] & (j < tokens)[None, :], other=0.0)
        total = tl.dot(rows, columns, total, input_precision="ieee")
    target = mixed + channel * pairs + start + i[:, None] * tokens + j[None, :]
    tl.store(target, total.to(mixed.dtype.element_ty), mask=(i < tokens)[:, None] & (j < tokens)[None, :])


@triton.jit
def _finish(
    out, mixed, x, norm_in, shift_in, g_out, norm_out, shift_out, p_out, pairs, width, eps,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    channel = tl.arange(0, BLOCK)
    inside = channel < width
    there = (row < pairs)[:, None] & inside[None, :]
    values = tl.load(x + row[:, None] * width + channel[None, :], mask=there, other=0.0)
    z = _normalised(values.to(tl.float32), norm_in, shift_in, width, eps, inside, channel).to(x.dtype.element_ty)
    sums = tl.load(mixed + channel[None, :].to(tl.int64) * pairs + row[:, None], mask=there, other=0.0)
    m = _normalised(sums.to(tl.float32), norm_out, shift_out, width, eps, inside, channel).to(x.dtype.element_ty)
    for first in range(0, width, COLUMNS):
        n = first + tl.arange(0, COLUMNS)
        place, known = n[None, :] * width + channel[:, None], (n < width)[None, :] & inside[:, None]
        g = tl.dot(z, tl.load(g_out + place, mask=known, other=0.0), input_precision="ieee")
        p = tl.dot(m, tl.load(p_out + place, mask=known, other=0.0), input_precision="ieee")
        result = (p * tl.sigmoid(g)).to(out.dtype.element_ty)
        tl.store(out + row[:, None] * width + n[None, :], result, mask=(row < pairs)[:, None] & (n < width)[None, :])


def triangle_multiplicative_update(
    out, x, outgoing, mask, norm_in_weight, norm_in_bias, p_in_weight, g_in_weight, norm_out_weight, norm_out_bias, p_out_weight,
    g_out_weight, eps,
):
    batch, tokens, _, width = x.shape
    pairs = batch * tokens * tokens
    if pairs == 0:
        return
    ab = torch.empty(2 * width, pairs, dtype=x.dtype, device=x.device)
    mixed = torch.empty(width, pairs, dtype=x.dtype, device=x.device)
    block = max(16, triton.next_power_of_2(width))
    rows, columns = (32, 32) if x.dtype == torch.float32 else (64, 64)
    tile, depth = (64, 32) if tokens > 32 else (32, 32)
    _project[(triton.cdiv(pairs, rows), triton.cdiv(2 * width, columns))](
        ab, x, mask, norm_in_weight, norm_in_bias, p_in_weight, g_in_weight, pairs, width, eps,
        ROWS=rows, COLUMNS=columns, BLOCK=block, num_warps=4,
    )
    _combine[(triton.cdiv(tokens, tile) ** 2, width, batch)](
        mixed, ab, pairs, tokens, width, OUTGOING=outgoing, TILE=tile, DEPTH=depth, num_warps=4, num_stages=3
    )
    _finish[(triton.cdiv(pairs, rows),)](
        out, mixed, x, norm_in_weight, norm_in_bias, g_out_weight, norm_out_weight, norm_out_bias, p_out_weight, pairs, width, eps,
        ROWS=rows, COLUMNS=columns, BLOCK=block, num_warps=4,
    )
