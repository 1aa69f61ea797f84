import triton
import triton.language as tl


@triton.jit
def _gelu_tanh_and_mul(out, x, rows, width, tiles, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    # Consecutive programs walk along a row, so that the memory in flight lies close together.
    program = tl.program_id(0)
    row = (program // tiles * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    column = (program % tiles * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    mask = (row < rows) & (column < width)
    gate = tl.load(x + row * 2 * width + column, mask=mask).to(tl.float32)
    up = tl.load(x + row * 2 * width + width + column, mask=mask).to(tl.float32)
    inner = 0.7978845608 * (gate + 0.044715 * gate * gate * gate)
    tl.store(out + row * width + column, (gate * tl.sigmoid(2.0 * inner) * up).to(out.dtype.element_ty), mask=mask)


def gelu_tanh_and_mul(out, input):
    rows, width = out.shape
    if rows:
        # 2048 elements for 128 threads: two 16-byte loads of gate and of up each. Narrow rows (experts) share a program.
        tiles = triton.cdiv(width, 256)
        _gelu_tanh_and_mul[(triton.cdiv(rows, 8) * tiles,)](out, input, rows, width, tiles, ROWS=8, COLUMNS=256, num_warps=4)
