import torch
import torch.distributed as dist
import triton
import triton.language as tl


@triton.jit
def _multiply(
    out, x, weight, rows, columns, depth,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr, WHOLE: tl.constexpr,
):
    # Programs that run at the same time share rows and columns: GROUP blocks of rows by as many columns as there is room for.
    row_blocks, column_blocks = tl.cdiv(rows, ROWS), tl.cdiv(columns, COLUMNS)
    group = tl.program_id(0) // (GROUP * column_blocks)
    inside = tl.program_id(0) % (GROUP * column_blocks)
    height = tl.minimum(row_blocks - group * GROUP, GROUP)
    m = (group * GROUP + inside % height) * ROWS + tl.arange(0, ROWS)
    n = (inside // height) * COLUMNS + tl.arange(0, COLUMNS)
    k = tl.arange(0, DEPTH)
    # Rows and columns past the end are read from the last one and never stored: only the depth needs a mask.
    left = x + tl.minimum(m, rows - 1).to(tl.int64)[:, None] * depth + k[None, :]
    right = weight + tl.minimum(n, columns - 1).to(tl.int64)[None, :] * depth + k[:, None]
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, depth, DEPTH):
        if WHOLE:
            v = tl.load(left + start)
            w = tl.load(right + start)
        else:
            v = tl.load(left + start, mask=start + k[None, :] < depth, other=0.0)
            w = tl.load(right + start, mask=start + k[:, None] < depth, other=0.0)
        sums = tl.dot(v, w, sums, input_precision="ieee")
    where = m.to(tl.int64)[:, None] * columns + n[None, :]
    tl.store(out + where, sums.to(out.dtype.element_ty), mask=(m < rows)[:, None] & (n < columns)[None, :])


@triton.jit
def _add_parts(out, parts, size, PARTS: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < size
    total = tl.zeros((BLOCK,), tl.float32)
    for part in tl.static_range(PARTS):
        total += tl.load(parts + part * size + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=mask)


def gemm_reduce_scatter(out, input, weight, comm):
    (rows, depth), columns = input.shape, weight.shape[0]
    if not rows:
        return
    product = torch.empty((rows, columns), dtype=out.dtype, device=out.device)
    row_block, column_block, step, warps = (128, 256, 64, 8) if input.element_size() == 2 else (64, 64, 32, 4)
    _multiply[(triton.cdiv(rows, row_block) * triton.cdiv(columns, column_block),)](
        product, input, weight, rows, columns, depth,
        ROWS=row_block, COLUMNS=column_block, DEPTH=step, GROUP=8, WHOLE=depth % step == 0, num_warps=warps, num_stages=3,
    )
    parts = torch.empty_like(product)
    dist.all_to_all_single(parts, product, group=comm.group)
    size = out.numel()
    _add_parts[(triton.cdiv(size, 1024),)](out, parts, size, PARTS=comm.world_size, BLOCK=1024, num_warps=4)
