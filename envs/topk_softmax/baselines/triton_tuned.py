"""A warp a row, as in vLLM's kernel: logits and experts are packed into one integer, whose maximum is found k times."""

import triton
import triton.language as tl


@triton.jit
def _route(
    weights, ids, places, logits, tokens, experts,
    K: tl.constexpr, PADDED: tl.constexpr, RENORMALIZE: tl.constexpr, BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    expert = tl.arange(0, BLOCK)
    x = tl.load(logits + row * experts + expert, mask=expert < experts, other=float("-inf")).to(tl.float32)
    bits = x.to(tl.int32, bitcast=True)
    rising = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # as an integer it has the order of the float
    rising = tl.where(x == 0.0, 0, rising)
    key = (rising.to(tl.int64) << 32) | (0x7FFFFFFF - expert).to(tl.int64)
    top = tl.max(x, 0)
    total = tl.sum(tl.exp(x - top), 0)
    slot = tl.arange(0, PADDED)
    best = tl.full((PADDED,), float("-inf"), tl.float32)
    chosen = tl.zeros((PADDED,), tl.int32)
    for j in tl.static_range(K):
        largest = tl.max(key, 0)
        key = tl.where(key == largest, -0x7FFFFFFFFFFFFFFF, key)
        high = (largest >> 32).to(tl.int32)
        value = tl.where(high < 0, high ^ 0x7FFFFFFF, high).to(tl.float32, bitcast=True)
        best = tl.where(slot == j, value, best)
        chosen = tl.where(slot == j, 0x7FFFFFFF - (largest & 0x7FFFFFFF).to(tl.int32), chosen)
    share = tl.exp(best - top)
    if RENORMALIZE:
        total = tl.sum(share, 0)
    there = slot < K
    tl.store(weights + row * K + slot, share / total, mask=there)
    tl.store(ids + row * K + slot, chosen, mask=there)
    tl.store(places + row * K + slot, slot * tokens + tl.program_id(0), mask=there)


def topk_softmax(topk_weights, topk_ids, token_expert_indices, gating_output, topk, renormalize):
    tokens, experts = gating_output.shape
    if tokens:
        _route[(tokens,)](
            topk_weights, topk_ids, token_expert_indices, gating_output, tokens, experts, K=topk,
            PADDED=triton.next_power_of_2(topk), RENORMALIZE=bool(renormalize), BLOCK=triton.next_power_of_2(experts), num_warps=1,
        )
