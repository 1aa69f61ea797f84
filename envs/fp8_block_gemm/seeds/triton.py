import torch
import triton
import triton.language as tl

MULTIPROCESSORS = 132  # of an H200


@triton.jit
def _product(
    d, a, sa, w, sw, rows, columns, depth, span,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, GROUP: tl.constexpr, SWAP: tl.constexpr,
):
    # Programs that run at the same time share GROUP blocks of rows: what they read stays in the second-level cache.
    row_blocks = tl.cdiv(rows, ROWS)
    across = GROUP * tl.cdiv(columns, COLUMNS)
    first = tl.program_id(0) // across * GROUP
    height = tl.minimum(row_blocks - first, GROUP)
    within = tl.program_id(0) % across
    m = (first + within % height) * ROWS + tl.arange(0, ROWS)
    n = within // height * COLUMNS + tl.arange(0, COLUMNS)
    part = tl.program_id(1)
    begin = part * span
    end = tl.minimum(begin + span, depth // 128)
    k = tl.arange(0, 128)
    # Rows past the end are read from the last one and never stored: loads need no mask.
    row = tl.minimum(m, rows - 1).to(tl.int64)
    column = tl.minimum(n, columns - 1).to(tl.int64)
    left = a + row * depth
    right = w + column * depth
    left_scales = sa + row * (depth // 128)
    right_scales = sw + column // 128 * (depth // 128)
    target = d + (part.to(tl.int64) * rows + m) * columns
    if SWAP:
        # The weight is the left operand: its many rows fill the tensor cores, however few tokens there are.
        sums = tl.zeros((COLUMNS, ROWS), tl.float32)
        for group in range(begin, end):
            product = tl.dot(tl.load(right[:, None] + (group * 128 + k)[None, :]), tl.load(left[None, :] + (group * 128 + k)[:, None]))
            sums += product * tl.load(right_scales + group)[:, None] * tl.load(left_scales + group)[None, :]
        tl.store(target[None, :] + n[:, None], sums.to(d.dtype.element_ty), mask=(n < columns)[:, None] & (m < rows)[None, :])
    else:
        sums = tl.zeros((ROWS, COLUMNS), tl.float32)
        for group in range(begin, end):
            product = tl.dot(tl.load(left[:, None] + (group * 128 + k)[None, :]), tl.load(right[None, :] + (group * 128 + k)[:, None]))
            sums += product * tl.load(left_scales + group)[:, None] * tl.load(right_scales + group)[None, :]
        tl.store(target[:, None] + n[None, :], sums.to(d.dtype.element_ty), mask=(m < rows)[:, None] & (n < columns)[None, :])


@triton.jit
def _add_parts(d, parts, size, PARTS: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for part in tl.static_range(PARTS):
        total += tl.load(parts + part * size + at, mask=at < size, other=0.0)
    tl.store(d + at, total.to(d.dtype.element_ty), mask=at < size)


def fp8_block_gemm(a, sa, w, sw, d):
    (rows, columns), depth = d.shape, a.shape[1]
    if not rows:
        return
    if rows <= 64:
        height, width, warps, stages = 16 if rows <= 16 else 32 if rows <= 32 else 64, 64, 4, 5
    elif rows <= 512:
        height, width, warps, stages = 64, 128, 4, 4
    else:
        height, width, warps, stages = 128, 128, 8, 4
    # Where there are few tiles the depth is split until every multiprocessor has two programs.
    tiles = triton.cdiv(rows, height) * triton.cdiv(columns, width)
    groups = depth // 128
    parts = 1  # counted up by comparisons: quotients of a size that is a symbol keep Dynamo busy without end
    while parts < min(8, groups // 4) and (parts + 1) * tiles <= 2 * MULTIPROCESSORS:
        parts += 1
    span = triton.cdiv(groups, parts)
    parts = triton.cdiv(groups, span)
    target = d if parts == 1 else torch.empty((parts, rows, columns), dtype=torch.float32, device=d.device)
    _product[(tiles, parts)](
        target, a, sa, w, sw, rows, columns, depth, span,
        ROWS=height, COLUMNS=width, GROUP=8, SWAP=rows <= 64, num_warps=warps, num_stages=stages,
    )
    if parts > 1:
        size = rows * columns
        _add_parts[(triton.cdiv(size, 1024),)](d, target, size, PARTS=parts, BLOCK=1024, num_warps=4)
