import triton
import triton.language as tl


@triton.jit
def _topk_softmax(
    weights, ids, places, logits, tokens, experts,
    K: tl.constexpr, PADDED: tl.constexpr, RENORMALIZE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    expert = tl.arange(0, BLOCK)[None, :]
    mask = (row < tokens)[:, None] & (expert < experts)
    start = row.to(tl.int64)[:, None]
    x = tl.load(logits + start * experts + expert, mask=mask, other=float("-inf")).to(tl.float32)
    x = tl.where((row < tokens)[:, None], x, 0.0)
    slot = tl.arange(0, PADDED)[None, :]
    best = tl.full((ROWS, PADDED), float("-inf"), tl.float32)
    chosen = tl.zeros((ROWS, PADDED), tl.int32)
    top = tl.max(x, 1)[:, None]
    total = tl.sum(tl.exp(x - top), 1)[:, None]
    for j in tl.static_range(K):
        largest = tl.max(x, 1)[:, None]
        first = tl.min(tl.where(x == largest, expert, BLOCK), 1)[:, None]  # of equal ones the lowest
        best = tl.where(slot == j, largest, best)
        chosen = tl.where(slot == j, first, chosen)
        x = tl.where(expert == first, float("-inf"), x)
    share = tl.exp(best - top)
    if RENORMALIZE:
        total = tl.sum(share, 1)[:, None]
    there = (row < tokens)[:, None] & (slot < K)
    tl.store(weights + start * K + slot, share / total, mask=there)
    tl.store(ids + start * K + slot, chosen, mask=there)
    tl.store(places + start * K + slot, slot * tokens + row[:, None], mask=there)


def topk_softmax(topk_weights, topk_ids, token_expert_indices, gating_output, topk, renormalize):
    tokens, experts = gating_output.shape
    if tokens:
        block = triton.next_power_of_2(experts)
        height = max(1, 512 // block)  # 512 logits for 4 warps: a row's maxima stay within few of them
        _topk_softmax[(triton.cdiv(tokens, height),)](
            topk_weights, topk_ids, token_expert_indices, gating_output, tokens, experts, K=topk,
            PADDED=triton.next_power_of_2(topk), RENORMALIZE=bool(renormalize), ROWS=height, BLOCK=block, num_warps=4,
        )
