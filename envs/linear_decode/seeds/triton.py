import torch
import triton
import triton.language as tl

MULTIPROCESSORS = 132  # of an H200


@triton.jit
def _linear(
    out, x, weight, bias, rows, columns, depth, span,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, WHOLE: tl.constexpr, PARTIAL: tl.constexpr,
):
    # The weight is the left operand: its many rows fill the tensor cores, however few tokens there are.
    n = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    m = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    part = tl.program_id(2)
    begin = part * span
    end = tl.minimum(begin + span, depth)
    k = tl.arange(0, DEPTH)
    # Rows past the end are read from the last one and never stored: loads need no mask.
    left = weight + tl.minimum(n, columns - 1).to(tl.int64)[:, None] * depth + k[None, :]
    right = x + tl.minimum(m, rows - 1)[None, :] * depth + k[:, None]
    sums = tl.zeros((COLUMNS, ROWS), tl.float32)
    for start in range(begin, end, DEPTH):
        if WHOLE:
            w = tl.load(left + start)
            v = tl.load(right + start)
        else:
            w = tl.load(left + start, mask=start + k[None, :] < end, other=0.0)
            v = tl.load(right + start, mask=start + k[:, None] < end, other=0.0)
        sums = tl.dot(w, v, sums, input_precision="ieee")
    result = tl.trans(sums)
    where = m.to(tl.int64)[:, None] * columns + n[None, :]
    mask = (m < rows)[:, None] & (n < columns)[None, :]
    if PARTIAL:
        tl.store(out + part.to(tl.int64) * rows * columns + where, result, mask=mask)
    else:
        result += tl.load(bias + n, mask=n < columns, other=0.0).to(tl.float32)[None, :]
        tl.store(out + where, result.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _add_parts(out, parts, bias, columns, size, PARTS: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < size
    total = tl.load(bias + at % columns, mask=mask, other=0.0).to(tl.float32)
    for part in tl.static_range(PARTS):
        total += tl.load(parts + part * size + at, mask=mask, other=0.0)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=mask)


def linear_decode(out, x, weight, bias):
    (rows, columns), depth = out.shape, x.shape[1]
    if not rows:
        return
    row_block = 16 if rows <= 16 else 32 if rows <= 32 else 64
    # A step reads 256 bytes of each weight row: 128 bf16 or 64 float32.
    column_block, step = 64, 256 // x.element_size()
    tiles = triton.cdiv(columns, column_block) * triton.cdiv(rows, row_block)
    # The depth is split until every multiprocessor has work: two programs, but one with 64 tokens, whose tiles fill shared memory.
    programs = MULTIPROCESSORS if row_block == 64 else 2 * MULTIPROCESSORS
    parts = 1  # counted up by comparisons: quotients of a size that is a symbol keep Dynamo busy without end
    while parts < min(8, depth // (4 * step)) and (parts + 1) * tiles <= programs:
        parts += 1
    stages = 3 if row_block == 64 and tiles > MULTIPROCESSORS else 4
    span = triton.cdiv(triton.cdiv(depth, parts), step) * step
    parts = triton.cdiv(depth, span)
    grid = (triton.cdiv(columns, column_block), triton.cdiv(rows, row_block), parts)
    target = out if parts == 1 else torch.empty((parts, rows, columns), dtype=torch.float32, device=out.device)
    _linear[grid](
        target, x, weight, bias, rows, columns, depth, span,
        ROWS=row_block, COLUMNS=column_block, DEPTH=step, WHOLE=depth % step == 0, PARTIAL=parts > 1,
        num_warps=4, num_stages=stages,
    )
    if parts > 1:
        size = rows * columns
        _add_parts[(triton.cdiv(size, 1024),)](out, target, bias, columns, size, PARTS=parts, BLOCK=1024, num_warps=4)
