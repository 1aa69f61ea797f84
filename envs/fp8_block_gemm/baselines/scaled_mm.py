"""cuBLASLt's block-scaled product (Hopper). It takes column-major scales of `a`, which this transposes, as DeepGEMM's wrapper does."""

import torch


def fp8_block_gemm(a, sa, w, sw, d):
    if len(a):
        torch._scaled_mm(a, w.t(), scale_a=sa.t().contiguous().t(), scale_b=sw.t(), out_dtype=d.dtype, out=d)
