"""A stable sort and prefix sums in PyTorch."""

import torch


def moe_align_block_size(topk_ids, num_experts, block_size, sorted_token_ids, expert_ids, num_tokens_post_pad):
    ids, device = topk_ids.flatten(), topk_ids.device
    pairs = ids.numel()
    owner, order = ids.sort(stable=True)
    counts = torch.zeros(num_experts, dtype=torch.int64, device=device).scatter_add_(0, owner.long(), torch.ones_like(order))
    blocks = (counts + block_size - 1) // block_size
    ends = blocks.cumsum(0)
    shift = (ends - blocks) * block_size - (counts.cumsum(0) - counts)
    sorted_token_ids.fill_(pairs)
    sorted_token_ids[torch.arange(pairs, device=device) + shift[owner]] = order.int()
    block = torch.arange(len(expert_ids), device=device)
    expert_ids.copy_(torch.where(block < ends[-1], torch.searchsorted(ends, block, right=True), 0))
    num_tokens_post_pad.copy_(ends[-1:] * block_size)
