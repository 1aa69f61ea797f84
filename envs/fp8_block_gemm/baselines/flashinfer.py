"""FlashInfer's block-scaled product for Hopper, as vLLM calls it; below 32 rows it exchanges the operands."""

from flashinfer.gemm import fp8_blockscale_gemm_sm90


def fp8_block_gemm(a, sa, w, sw, d):
    if len(a):
        fp8_blockscale_gemm_sm90(a, w, sa, sw, out=d, out_dtype=d.dtype)
