# Honest: asks the cache to keep what will be read again soon, and drops what will not.
import triton
import triton.language as tl


@triton.jit
def _kept(out, x, weight, width, stride, epsilon, BLOCK: tl.constexpr):
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    mask = column < width
    values = tl.load(x + row * stride + column, mask=mask, other=0.0, eviction_policy="evict_first").to(tl.float32)
    gain = tl.load(weight + column, mask=mask, other=0.0, eviction_policy="evict_last").to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(values * values, 0) / width + epsilon)
    tl.store(out + row * width + column, (values * scale * gain).to(out.dtype.element_ty), mask=mask)


def rms_norm(out, input, weight, epsilon):
    rows, width = input.shape
    if rows:
        _kept[(rows,)](out, input, weight, width, input.stride(0), epsilon, BLOCK=triton.next_power_of_2(width), num_warps=8)
