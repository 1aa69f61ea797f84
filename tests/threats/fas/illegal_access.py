# Writes to an address that belongs to nobody.
import triton
import triton.language as tl


@triton.jit
def _stray(out):
    tl.store(out + (1 << 44) + tl.program_id(0), 1.0)


def silu_and_mul(out, input):
    _stray[(64,)](out)
