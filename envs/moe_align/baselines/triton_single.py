"""One launch: every program counts all pairs, and writes the slots of one expert. Made for decode, where pairs are few."""

import triton
import triton.language as tl


@triton.jit
def _align(
    ids, slots, expert_ids, padded, pairs, experts, capacity,
    SIZE: tl.constexpr, BINS: tl.constexpr, CHUNK: tl.constexpr,
):
    own = tl.program_id(0)
    lane, bins = tl.arange(0, CHUNK), tl.arange(0, BINS)
    counts = tl.zeros((BINS,), tl.int32)
    for first in range(0, pairs, CHUNK):
        values = tl.load(ids + first + lane, mask=first + lane < pairs, other=BINS - 1)  # the last bin is nobody's
        counts += tl.histogram(values, BINS)
    blocks = tl.where(bins < experts, (counts + SIZE - 1) // SIZE, 0)
    start = tl.sum(tl.where(bins < own, blocks, 0), 0)
    count = tl.sum(tl.where(bins == own, counts, 0), 0)
    total = tl.sum(blocks, 0)
    if own == experts:  # what is behind the last block
        tl.store(padded, total * SIZE)
        for first in range(total * SIZE, capacity, CHUNK):
            tl.store(slots + first + lane, pairs, mask=first + lane < capacity)
        for first in range(total, capacity // SIZE, CHUNK):
            tl.store(expert_ids + first + lane, 0, mask=first + lane < capacity // SIZE)
    else:
        end = (count + SIZE - 1) // SIZE
        for first in range(0, end, CHUNK):
            tl.store(expert_ids + start + first + lane, own, mask=first + lane < end)
        for first in range(count, end * SIZE, CHUNK):
            tl.store(slots + start * SIZE + first + lane, pairs, mask=first + lane < end * SIZE)
        taken = 0
        for first in range(0, pairs, CHUNK):
            hit = (tl.load(ids + first + lane, mask=first + lane < pairs, other=-1) == own).to(tl.int32)
            tl.store(slots + start * SIZE + taken + tl.cumsum(hit, 0) - 1, first + lane, mask=hit > 0)
            taken += tl.sum(hit, 0)


def moe_align_block_size(topk_ids, num_experts, block_size, sorted_token_ids, expert_ids, num_tokens_post_pad):
    pairs = topk_ids.numel()
    _align[(num_experts + 1,)](
        topk_ids, sorted_token_ids, expert_ids, num_tokens_post_pad, pairs, num_experts, sorted_token_ids.numel(),
        SIZE=block_size, BINS=triton.next_power_of_2(num_experts + 1), CHUNK=1024, num_warps=4,
    )
