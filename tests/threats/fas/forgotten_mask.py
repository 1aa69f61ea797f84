# A Triton kernel that forgets the mask of its last block of rows.
import triton
import triton.language as tl


@triton.jit
def _silu(out, x, width, COLUMNS: tl.constexpr):
    row, column = tl.program_id(0), tl.arange(0, COLUMNS)
    gate = tl.load(x + row * 2 * width + column).to(tl.float32)
    up = tl.load(x + row * 2 * width + width + column).to(tl.float32)
    tl.store(out + row * width + column, (gate / (1.0 + tl.exp(-gate)) * up).to(out.dtype.element_ty))


def silu_and_mul(out, input):
    rows, width = out.shape
    if rows:
        _silu[(rows,)](out, input, width, COLUMNS=triton.next_power_of_2(width))
