import triton
import triton.language as tl


@triton.jit
def _linear(
    out, x, weight, bias, rows, columns, depth,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr, WHOLE: tl.constexpr,
):
    # Programs that run at the same time share GROUP blocks of rows: what they read stays in the second-level cache.
    row_blocks = tl.cdiv(rows, ROWS)
    across = GROUP * tl.cdiv(columns, COLUMNS)
    first = tl.program_id(0) // across * GROUP
    height = tl.minimum(row_blocks - first, GROUP)
    within = tl.program_id(0) % across
    m = (first + within % height) * ROWS + tl.arange(0, ROWS)
    n = within // height * COLUMNS + tl.arange(0, COLUMNS)
    k = tl.arange(0, DEPTH)
    # Rows past the end are read from the last one and never stored: loads need no mask.
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
    sums += tl.load(bias + n, mask=n < columns, other=0.0).to(tl.float32)[None, :]
    target = out + m.to(tl.int64)[:, None] * columns + n[None, :]
    tl.store(target, sums.to(out.dtype.element_ty), mask=(m < rows)[:, None] & (n < columns)[None, :])


def linear_prefill(out, x, weight, bias):
    (rows, columns), depth = out.shape, x.shape[1]
    if not rows:
        return
    if x.element_size() == 4:
        height, width, step, warps, stages = 64, 128, 64, 8, 2
    elif rows <= 512:
        height, width, step, warps, stages = 64, 128, 64, 4, 4
    else:
        height, width, step, warps, stages = 128, 256, 64, 8, 4
    grid = (triton.cdiv(rows, height) * triton.cdiv(columns, width),)
    _linear[grid](
        out, x, weight, bias, rows, columns, depth,
        ROWS=height, COLUMNS=width, DEPTH=step, GROUP=8, WHOLE=depth % step == 0, num_warps=warps, num_stages=stages,
    )
