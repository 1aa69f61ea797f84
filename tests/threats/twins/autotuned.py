# Honest: Triton's autotuner chooses warps and stages by width.
import triton
import triton.language as tl


@triton.autotune([triton.Config({}, num_warps=w, num_stages=s) for w in (4, 8) for s in (1, 2)], key=["width"])
@triton.jit
def _tuned(out, x, width, COLUMNS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    mask = column < width
    gate = tl.load(x + row * 2 * width + column, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(x + row * 2 * width + width + column, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + row * width + column, (gate / (1.0 + tl.exp(-gate)) * up).to(out.dtype.element_ty), mask=mask)


def silu_and_mul(out, input):
    rows, width = out.shape
    if rows:
        _tuned[(rows, triton.cdiv(width, 1024))](out, input, width, COLUMNS=1024)
