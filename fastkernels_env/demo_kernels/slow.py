# Right but slow: one program for every row and 16 columns, products summed without tensor cores, no weight read shared.
import triton
import triton.language as tl


@triton.jit
def _row(a, b, c, weights, sorted_ids, expert_ids, used, rows, columns, depth, top_k, block, SCALE: tl.constexpr):
    slot = tl.program_id(0)
    if slot >= tl.load(used):
        return
    row = tl.load(sorted_ids + slot).to(tl.int64)
    if row >= rows:
        return
    expert = tl.load(expert_ids + slot // block).to(tl.int64)
    n = tl.program_id(1) * 16 + tl.arange(0, 16)
    k = tl.arange(0, 64)
    x = a + row // top_k * depth + k
    y = b + (expert * columns + n)[:, None] * depth + k[None, :]
    total = tl.zeros((16,), tl.float32)
    for start in range(0, depth, 64):
        inside = k < depth - start
        left = tl.load(x + start, mask=inside, other=0.0).to(tl.float32)
        right = tl.load(y + start, mask=(n < columns)[:, None] & inside[None, :], other=0.0).to(tl.float32)
        total += tl.sum(left[None, :] * right, 1)
    if SCALE:
        total *= tl.load(weights + row)
    tl.store(c + row * columns + n, total.to(c.dtype.element_ty), mask=n < columns)


def moe_gemm(A, B, C, topk_weights, sorted_token_ids, expert_ids, num_tokens_post_padded, mul_routed_weight, top_k, block_size):
    rows, columns = C.shape
    if rows == 0:
        return
    _row[(sorted_token_ids.numel(), triton.cdiv(columns, 16))](
        A, B, C, topk_weights, sorted_token_ids, expert_ids, num_tokens_post_padded, rows, columns, A.shape[1], top_k, block_size,
        SCALE=mul_routed_weight, num_warps=1,
    )
