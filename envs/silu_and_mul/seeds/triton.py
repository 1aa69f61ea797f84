import triton
import triton.language as tl


@triton.jit
def _silu_and_mul(out, x, rows, width, tiles, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    # Consecutive programs walk along a row, so that the memory in flight lies close together.
    program = tl.program_id(0)
    row = (program // tiles * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    column = (program % tiles * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    mask = (row < rows) & (column < width)
    gate = tl.load(x + row * 2 * width + column, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(x + row * 2 * width + width + column, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + row * width + column, (gate / (1.0 + tl.exp(-gate)) * up).to(out.dtype.element_ty), mask=mask)


def silu_and_mul(out, input):
    rows, width = out.shape
    if rows:
        # 2048 elements for 128 threads: two 16-byte loads of gate and of up each. Narrow rows (experts) share a program.
        columns = 2048 if width >= 2048 else 256
        height = 2048 // columns
        tiles = triton.cdiv(width, columns)
        grid = (triton.cdiv(rows, height) * tiles,)
        _silu_and_mul[grid](out, input, rows, width, tiles, ROWS=height, COLUMNS=columns, num_warps=4)
