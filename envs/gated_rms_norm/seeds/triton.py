import triton
import triton.language as tl


@triton.jit
def _gated_rms_norm(out, x, gate, weight, rows, width, eps, SIGMOID: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    mask = (row < rows) & (column < width)
    values = tl.load(x + row * width + column, mask=mask, other=0.0).to(tl.float32)
    g = tl.load(gate + row * width + column, mask=mask).to(tl.float32)
    gain = tl.load(weight + column, mask=column < width).to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(values * values, 1)[:, None] / width + eps)
    open_ = tl.sigmoid(g) if SIGMOID else g * tl.sigmoid(g)
    tl.store(out + row * width + column, (values * scale * gain * open_).to(out.dtype.element_ty), mask=mask)


def gated_rms_norm(out, x, gate, weight, eps, sigmoid):
    rows, width = x.shape
    if rows:
        # 2048 elements for 128 threads: heads of 128 share a program, 16 of them.
        block = triton.next_power_of_2(width)
        height = max(1, 2048 // block)
        grid = (triton.cdiv(rows, height),)
        _gated_rms_norm[grid](out, x, gate, weight, rows, width, eps, SIGMOID=sigmoid, ROWS=height, BLOCK=block, num_warps=4)
