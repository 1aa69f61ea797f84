import torch
import triton
import triton.language as tl

MULTIPROCESSORS = 132  # of an H200


@triton.jit
def _place(row_blocks, column_blocks, GROUP: tl.constexpr):
    # Programs that run at the same time share GROUP blocks of rows: what they read stays in the second-level cache.
    program = tl.program_id(0)
    first = program // (GROUP * column_blocks) * GROUP
    height = tl.minimum(row_blocks - first, GROUP)
    within = program % (GROUP * column_blocks)
    return first + within % height, within // height


@triton.jit
def _gate_up(
    hidden, x, weight, rows, width, inner,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr, WHOLE: tl.constexpr,
):
    row_block, column_block = _place(tl.cdiv(rows, ROWS), tl.cdiv(inner, COLUMNS), GROUP)
    m = row_block * ROWS + tl.arange(0, ROWS)
    n = column_block * COLUMNS + tl.arange(0, COLUMNS)
    k = tl.arange(0, DEPTH)
    # Rows past the end are read from the last one and never stored: loads need no mask.
    left = x + tl.minimum(m, rows - 1).to(tl.int64)[:, None] * width + k[None, :]
    gates = weight + tl.minimum(n, inner - 1).to(tl.int64)[None, :] * width + k[:, None]
    ups = gates + inner.to(tl.int64) * width
    gate = tl.zeros((ROWS, COLUMNS), tl.float32)
    up = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, width, DEPTH):
        if WHOLE:
            v = tl.load(left + start)
            g = tl.load(gates + start)
            u = tl.load(ups + start)
        else:
            v = tl.load(left + start, mask=start + k[None, :] < width, other=0.0)
            g = tl.load(gates + start, mask=start + k[:, None] < width, other=0.0)
            u = tl.load(ups + start, mask=start + k[:, None] < width, other=0.0)
        gate = tl.dot(v, g, gate, input_precision="ieee")
        up = tl.dot(v, u, up, input_precision="ieee")
    value = (gate / (1.0 + tl.exp(-gate)) * up).to(hidden.dtype.element_ty)
    tl.store(hidden + m.to(tl.int64)[:, None] * inner + n[None, :], value, mask=(m < rows)[:, None] & (n < inner)[None, :])


@triton.jit
def _down(
    out, hidden, weight, rows, width, inner, span,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr, WHOLE: tl.constexpr,
):
    row_block, column_block = _place(tl.cdiv(rows, ROWS), tl.cdiv(width, COLUMNS), GROUP)
    part = tl.program_id(1)
    begin = part * span
    end = tl.minimum(begin + span, inner)
    m = row_block * ROWS + tl.arange(0, ROWS)
    n = column_block * COLUMNS + tl.arange(0, COLUMNS)
    k = tl.arange(0, DEPTH)
    left = hidden + tl.minimum(m, rows - 1).to(tl.int64)[:, None] * inner + k[None, :]
    right = weight + tl.minimum(n, width - 1).to(tl.int64)[None, :] * inner + k[:, None]
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(begin, end, DEPTH):
        if WHOLE:
            v = tl.load(left + start)
            w = tl.load(right + start)
        else:
            v = tl.load(left + start, mask=start + k[None, :] < end, other=0.0)
            w = tl.load(right + start, mask=start + k[:, None] < end, other=0.0)
        sums = tl.dot(v, w, sums, input_precision="ieee")
    target = out + (part.to(tl.int64) * rows + m)[:, None] * width + n[None, :]
    tl.store(target, sums.to(out.dtype.element_ty), mask=(m < rows)[:, None] & (n < width)[None, :])


@triton.jit
def _add_parts(out, parts, size, PARTS: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for part in tl.static_range(PARTS):
        total += tl.load(parts + part * size + at, mask=at < size, other=0.0)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=at < size)


def llama_mlp(out, x, gate_up_weight, down_weight):
    (rows, width), inner = out.shape, down_weight.shape[1]
    if not rows:
        return
    # Rows of a tile, columns of gate and up, columns of down, depth, warps, stages.
    if x.element_size() == 4:
        height, pair, column, step, warps, stages = 16 if rows <= 16 else 64, 64, 128, 64, 8, 2
    elif rows <= 64:
        height, pair, column, step, warps, stages = 16 if rows <= 16 else 32 if rows <= 32 else 64, 64, 64, 64, 4, 4
    elif rows <= 512:
        height, pair, column, step, warps, stages = 64, 64, 128, 64, 4, 4
    else:
        height, pair, column, step, warps, stages = 128, 128, 256, 64, 8, 4
    hidden = torch.empty((rows, inner), dtype=out.dtype, device=out.device)
    row_blocks = triton.cdiv(rows, height)
    _gate_up[(row_blocks * triton.cdiv(inner, pair),)](
        hidden, x, gate_up_weight, rows, width, inner,
        ROWS=height, COLUMNS=pair, DEPTH=step, GROUP=8, WHOLE=width % step == 0, num_warps=warps, num_stages=stages,
    )
    # Where the down projection has few tiles its depth is split until every multiprocessor has two programs.
    tiles = row_blocks * triton.cdiv(width, column)
    parts = 1  # counted up by comparisons: quotients of a size that is a symbol keep Dynamo busy without end
    while parts < min(8, inner // (4 * step)) and (parts + 1) * tiles <= 2 * MULTIPROCESSORS:
        parts += 1
    span = triton.cdiv(triton.cdiv(inner, parts), step) * step
    parts = triton.cdiv(inner, span)
    target = out if parts == 1 else torch.empty((parts, rows, width), dtype=torch.float32, device=out.device)
    _down[(tiles, parts)](
        target, hidden, down_weight, rows, width, inner, span,
        ROWS=height, COLUMNS=column, DEPTH=step, GROUP=8, WHOLE=inner % step == 0, num_warps=warps, num_stages=stages,
    )
    if parts > 1:
        size = rows * width
        _add_parts[(triton.cdiv(size, 1024),)](out, target, size, PARTS=parts, BLOCK=1024, num_warps=4)
