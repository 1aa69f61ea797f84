import torch
import triton
import triton.language as tl


@triton.jit
def _moe_gemm(
    a, b, c, topk_weights, sorted_ids, expert_ids, used, rows, columns, depth, top_k,
    SCALE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):
    # The grid covers the capacity; only as many programs as there are used slots have work.
    blocks = tl.load(used) // BLOCK_M
    tiles = tl.cdiv(columns, BLOCK_N)
    program = tl.program_id(0)
    if program >= blocks * tiles:
        return
    # Neighbouring programs share weight tiles: GROUP blocks of rows before the next tile of columns.
    first = program // (GROUP * tiles) * GROUP
    height = tl.minimum(blocks - first, GROUP)
    local = program % (GROUP * tiles)
    block = first + local % height
    n = local // height * BLOCK_N + tl.arange(0, BLOCK_N)

    row = tl.load(sorted_ids + block * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    expert = tl.load(expert_ids + block).to(tl.int64)
    live = row < rows
    k = tl.arange(0, BLOCK_K)
    x = a + (row // top_k)[:, None] * depth + k[None, :]
    y = b + expert * columns * depth + n[None, :].to(tl.int64) * depth + k[:, None]
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, depth, BLOCK_K):
        inside = k < depth - start
        left = tl.load(x + start, mask=live[:, None] & inside[None, :], other=0.0)
        right = tl.load(y + start, mask=(n < columns)[None, :] & inside[:, None], other=0.0)
        total = tl.dot(left, right, total, input_precision="ieee")
    if SCALE:
        total *= tl.load(topk_weights + row, mask=live, other=0.0)[:, None]
    tl.store(c + row[:, None] * columns + n[None, :], total.to(c.dtype.element_ty), mask=live[:, None] & (n < columns)[None, :])


def moe_gemm(A, B, C, topk_weights, sorted_token_ids, expert_ids, num_tokens_post_padded, mul_routed_weight, top_k, block_size):
    rows, columns = C.shape
    if rows == 0:
        return
    wide = A.dtype == torch.float32
    if block_size <= 32:
        block_n, block_k, group, warps, stages = 64, 64 if wide else 128, 1, 4, 4
    else:
        block_n, block_k, group, warps, stages = 128, 32 if wide else 64, 8, 8, 3
    grid = (expert_ids.numel() * triton.cdiv(columns, block_n),)
    _moe_gemm[grid](
        A, B, C, topk_weights, sorted_token_ids, expert_ids, num_tokens_post_padded, rows, columns, A.shape[1], top_k,
        SCALE=mul_routed_weight, BLOCK_M=block_size, BLOCK_N=block_n, BLOCK_K=block_k, GROUP=group,
        num_warps=warps, num_stages=stages,
    )
