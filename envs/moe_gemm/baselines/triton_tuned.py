"""A grouped GEMM in the manner of vLLM's fused-MoE kernel, with tiles picked for one H200.

Written for this project: the production kernel lives in a package too large to install beside the library. Tile shapes follow the
block size, which production chooses from the number of tokens per expert; whole tiles are loaded without masks.
"""

import torch
import triton
import triton.language as tl

# block_size: (columns, depth, row blocks that share a weight tile, warps, stages)
TILES = {16: (64, 128, 1, 4, 4), 32: (128, 128, 1, 4, 4), 64: (128, 64, 4, 4, 4), 128: (256, 64, 16, 8, 4)}


@triton.jit
def _grouped_gemm(
    a, b, c, topk_weights, sorted_ids, expert_ids, used, rows, top_k,
    N: tl.constexpr, K: tl.constexpr, SCALE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):
    blocks = tl.load(used) // BLOCK_M
    tiles: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    program = tl.program_id(0)
    if program >= blocks * tiles:
        return
    first = program // (GROUP * tiles) * GROUP
    height = tl.minimum(blocks - first, GROUP)
    local = program % (GROUP * tiles)
    block = first + local % height
    n = local // height * BLOCK_N + tl.arange(0, BLOCK_N)

    row = tl.load(sorted_ids + block * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    expert = tl.load(expert_ids + block).to(tl.int64)
    live = row < rows
    k = tl.arange(0, BLOCK_K)
    # Padding slots and columns past the end read a valid address instead of a masked one; their results are never stored.
    x = a + (tl.where(live, row, 0) // top_k)[:, None] * K + k[None, :]
    column = n if N % BLOCK_N == 0 else n % N
    y = b + expert * N * K + column[None, :].to(tl.int64) * K + k[:, None]
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, K, BLOCK_K):
        if K % BLOCK_K == 0:
            left = tl.load(x + start)
            right = tl.load(y + start)
        else:
            left = tl.load(x + start, mask=(k < K - start)[None, :], other=0.0)
            right = tl.load(y + start, mask=(k < K - start)[:, None], other=0.0)
        total = tl.dot(left, right, total, input_precision="ieee")
    if SCALE:
        total *= tl.load(topk_weights + row, mask=live, other=0.0)[:, None]
    inside = live[:, None] if N % BLOCK_N == 0 else live[:, None] & (n < N)[None, :]
    tl.store(c + row[:, None] * N + n[None, :], total.to(c.dtype.element_ty), mask=inside)


def moe_gemm(A, B, C, topk_weights, sorted_token_ids, expert_ids, num_tokens_post_padded, mul_routed_weight, top_k, block_size):
    rows, columns = C.shape
    if rows == 0:
        return
    block_n, block_k, group, warps, stages = TILES[block_size]
    if A.dtype == torch.float32:
        block_n, block_k = min(block_n, 128), block_k // 2
    _grouped_gemm[(expert_ids.numel() * triton.cdiv(columns, block_n),)](
        A, B, C, topk_weights, sorted_token_ids, expert_ids, num_tokens_post_padded, rows, top_k,
        N=columns, K=A.shape[1], SCALE=mul_routed_weight,
        BLOCK_M=block_size, BLOCK_N=block_n, BLOCK_K=block_k, GROUP=group, num_warps=warps, num_stages=stages,
    )
