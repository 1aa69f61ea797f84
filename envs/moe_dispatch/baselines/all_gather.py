"""All tokens to all ranks, each of which keeps what it needs: static shapes and no look at counts on the host, so that graphs can hold it.

With few ranks and many experts a token, nearly every token is needed on every rank, once; sending it for each expert costs more.
"""

import torch
import torch.distributed as dist


def moe_dispatch(recv, recv_source, expert_offsets, input, topk_ids, num_experts, comm):
    tokens, top_k = topk_ids.shape
    everyone, own = comm.world_size * tokens, num_experts // comm.world_size
    rows, ids = input.new_empty(everyone + 1, input.shape[1]), topk_ids.new_empty(everyone, top_k)
    dist.all_gather_into_tensor(ids, topk_ids, group=comm.group)
    dist.all_gather_into_tensor(rows[:everyone], input, group=comm.group)
    rows[everyone] = 0  # what padding is a copy of
    local = ids.flatten() - comm.rank * own
    local = torch.where((local < 0) | (local >= own), own, local)  # other ranks' rows come last
    expert, order = local.sort(stable=True)
    torch.searchsorted(expert, torch.arange(own + 1, dtype=expert.dtype, device=expert.device), out_int32=True, out=expert_offsets)
    source = torch.where(expert < own, order // top_k, -1)
    recv_source.copy_(source)
    torch.index_select(rows, 0, torch.where(source < 0, everyone, source), out=recv)
