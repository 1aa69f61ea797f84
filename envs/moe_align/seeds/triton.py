import torch
import triton
import triton.language as tl


@triton.jit
def _count(ids, counts, slots, pairs, capacity, BINS: tl.constexpr, CHUNK: tl.constexpr):
    # Pairs of every expert in one chunk; and padding everywhere, which pairs will overwrite.
    chunk, lane = tl.program_id(0), tl.arange(0, CHUNK)
    place = chunk * CHUNK + lane
    values = tl.load(ids + place, mask=place < pairs, other=BINS - 1)  # the last bin is nobody's
    tl.store(counts + chunk * BINS + tl.arange(0, BINS), tl.histogram(values, BINS))
    for first in range(chunk * CHUNK, capacity, tl.num_programs(0) * CHUNK):
        tl.store(slots + first + lane, tl.full((CHUNK,), pairs, tl.int32), mask=first + lane < capacity)


@triton.jit
def _before(counts, totals, chunks, BINS: tl.constexpr, CHUNKS: tl.constexpr, WIDTH: tl.constexpr):
    # For a few experts: how many pairs lie in earlier chunks.
    chunk, expert = tl.arange(0, CHUNKS)[:, None], tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)[None, :]
    place = counts + chunk * BINS + expert
    here = tl.load(place, mask=chunk < chunks, other=0)
    tl.store(place, tl.cumsum(here, 0) - here, mask=chunk < chunks)
    tl.store(totals + tl.program_id(0) * WIDTH + tl.arange(0, WIDTH), tl.sum(here, 0))


@triton.jit
def _blocks(totals, starts, expert_ids, padded, experts, all_blocks, SIZE: tl.constexpr, BINS: tl.constexpr, TILE: tl.constexpr):
    # Programs share the list of blocks; each needs the blocks of all experts.
    expert, block = tl.arange(0, BINS), tl.program_id(0) * TILE + tl.arange(0, TILE)
    blocks = tl.where(expert < experts, (tl.load(totals + expert) + SIZE - 1) // SIZE, 0)
    ends = tl.cumsum(blocks, 0)
    owner = tl.sum((ends[None, :] <= block[:, None]).to(tl.int32), 1)
    tl.store(expert_ids + block, tl.where(owner < BINS, owner, 0), mask=block < all_blocks)
    if tl.program_id(0) == 0:
        tl.store(starts + expert, (ends - blocks) * SIZE)
        tl.store(padded, tl.sum(blocks, 0) * SIZE)


@triton.jit
def _place(ids, counts, starts, slots, pairs, BINS: tl.constexpr, CHUNK: tl.constexpr, TILE: tl.constexpr):
    first = tl.program_id(0) * CHUNK
    place = first + tl.arange(0, CHUNK)
    own = tl.load(ids + place, mask=place < pairs, other=BINS - 1)
    rank = tl.load(counts + tl.program_id(0) * BINS + own) + tl.load(starts + own)
    for other in range(first, first + CHUNK, TILE):
        those = other + tl.arange(0, TILE)
        same = own[:, None] == tl.load(ids + those, mask=those < pairs, other=-1)[None, :]
        rank += tl.sum((same & (those[None, :] < place[:, None])).to(tl.int32), 1)
    tl.store(slots + rank, place, mask=place < pairs)


def moe_align_block_size(topk_ids, num_experts, block_size, sorted_token_ids, expert_ids, num_tokens_post_pad):
    pairs, capacity, all_blocks = topk_ids.numel(), sorted_token_ids.numel(), expert_ids.numel()
    bins = triton.next_power_of_2(num_experts + 1)
    size = 512 if pairs > 2048 else 256
    chunks = max(1, triton.cdiv(pairs, size))
    counts = torch.empty((chunks + 2, bins), dtype=torch.int32, device=topk_ids.device)
    totals, starts = counts[chunks], counts[chunks + 1]
    width = min(8, bins)
    _count[(chunks,)](topk_ids, counts, sorted_token_ids, pairs, capacity, BINS=bins, CHUNK=size)
    _before[(bins // width,)](counts, totals, chunks, BINS=bins, CHUNKS=triton.next_power_of_2(chunks), WIDTH=width)
    _blocks[(triton.cdiv(all_blocks, 32),)](
        totals, starts, expert_ids, num_tokens_post_pad, num_experts, all_blocks, SIZE=block_size, BINS=bins, TILE=32
    )
    _place[(chunks,)](topk_ids, counts, starts, sorted_token_ids, pairs, BINS=bins, CHUNK=size, TILE=16)
