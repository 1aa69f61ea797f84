import triton
import triton.language as tl


@triton.jit
def _activation(out, input, rows, width, stride, tiles, KIND: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    # Consecutive programs walk along a row, so that the memory in flight lies close together.
    program = tl.program_id(0)
    row = (program // tiles * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    column = (program % tiles * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    mask = (row < rows) & (column < width)
    x = tl.load(input + row * stride + column, mask=mask, other=0.0).to(tl.float32)
    if KIND == 0:
        y = tl.maximum(x, 0.0)
    elif KIND == 1:
        y = 0.5 * x * (1.0 + tl.erf(x * 0.70710678))
    elif KIND == 2:
        y = x * tl.sigmoid(1.5957691216 * (x + 0.044715 * x * x * x))
    elif KIND == 3:
        y = x * tl.sigmoid(1.702 * x)
    elif KIND == 4:
        y = x * tl.sigmoid(x)
    elif KIND == 5:
        y = tl.maximum(x, 0.0) * tl.maximum(x, 0.0)
    elif KIND == 6:
        y = x * tl.minimum(tl.maximum(x + 3.0, 0.0), 6.0) * (1.0 / 6.0)
    else:
        y = tl.sigmoid(x)
    tl.store(out + row * width + column, y.to(out.dtype.element_ty), mask=mask)


def activation(out, input, kind):
    rows, width = out.shape
    if rows:
        # 2048 elements for 128 threads: two 16-byte loads each. Narrow rows (channels of an image) share a program.
        columns = min(2048, triton.next_power_of_2(width))
        height = 2048 // columns
        tiles = triton.cdiv(width, columns)
        grid = (triton.cdiv(rows, height) * tiles,)
        _activation[grid](out, input, rows, width, input.stride(0), tiles, KIND=kind, ROWS=height, COLUMNS=columns, num_warps=4)
