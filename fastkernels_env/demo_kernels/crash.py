# Crashes: it writes far outside of every buffer.
import triton
import triton.language as tl


@triton.jit
def _scatter(c, distance):
    tl.store(c + distance + tl.arange(0, 64), tl.zeros((64,), c.dtype.element_ty))


def moe_gemm(A, B, C, topk_weights, sorted_token_ids, expert_ids, num_tokens_post_padded, mul_routed_weight, top_k, block_size):
    _scatter[(1,)](C, 1 << 44)
