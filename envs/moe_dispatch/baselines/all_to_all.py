"""The all-to-all that frameworks ship: sort by expert, exchange counts, send the rows with variable splits, sort what came."""

import torch
import torch.distributed as dist


def moe_dispatch(recv, recv_source, expert_offsets, input, topk_ids, num_experts, comm):
    tokens, top_k = topk_ids.shape
    ranks, own = comm.world_size, num_experts // comm.world_size
    expert, order = topk_ids.flatten().sort(stable=True)
    token = order // top_k
    counts = torch.zeros(num_experts, dtype=torch.int64, device=expert.device)
    counts.scatter_add_(0, expert.long(), torch.ones_like(order))
    theirs = torch.empty_like(counts)  # rows for this rank's experts, by source rank
    dist.all_to_all_single(theirs, counts, group=comm.group)
    send, take = torch.stack([counts, theirs]).view(2, ranks, own).sum(2).tolist()
    total = sum(take)
    rows, sources = input.new_empty(total, input.shape[1]), recv_source.new_empty(total)
    dist.all_to_all_single(rows, input[token], take, send, group=comm.group)
    dist.all_to_all_single(sources, (comm.rank * tokens + token).to(sources.dtype), take, send, group=comm.group)
    local = torch.arange(own, device=rows.device).repeat(ranks).repeat_interleave(theirs, output_size=total)
    place = local.argsort(stable=True)
    torch.index_select(rows, 0, place, out=recv[:total])
    torch.index_select(sources, 0, place, out=recv_source[:total])
    recv[total:] = 0
    recv_source[total:] = -1
    expert_offsets[0] = 0
    expert_offsets[1:] = theirs.view(ranks, own).sum(0).cumsum(0)
