import torch
import torch.distributed as dist
import triton
import triton.language as tl


@triton.jit
def _take(recv, recv_source, rows, order, received, capacity, width, top_k, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = row < capacity
    live = row < tl.load(received)
    source = tl.load(order + row, mask=live, other=0) // top_k
    if tl.program_id(1) == 0:
        tl.store(recv_source + row, tl.where(live, source, -1).to(tl.int32), mask=there)
    inside = (column < width)[None, :]
    values = tl.load(rows + source[:, None] * width + column[None, :], mask=live[:, None] & inside, other=0.0)
    tl.store(recv + row.to(tl.int64)[:, None] * width + column[None, :], values, mask=there[:, None] & inside)


def moe_dispatch(recv, recv_source, expert_offsets, input, topk_ids, num_experts, comm):
    (tokens, width), top_k = input.shape, topk_ids.shape[1]
    if tokens == 0:
        expert_offsets.zero_()
        return
    # With so few ranks nearly every token is needed on all of them: send each once.
    ids, rows = topk_ids.new_empty(comm.world_size * tokens, top_k), input.new_empty(comm.world_size * tokens, width)
    dist.all_gather_into_tensor(ids, topk_ids, group=comm.group)
    dist.all_gather_into_tensor(rows, input, group=comm.group)
    own = num_experts // comm.world_size
    local = ids.flatten() - comm.rank * own
    # Stable: within an expert, rows stay in the order of ranks and tokens. What belongs to other ranks comes last.
    expert, order = torch.where((local < 0) | (local >= own), own, local).sort(stable=True)
    expert_offsets.copy_(torch.searchsorted(expert, torch.arange(own + 1, dtype=expert.dtype, device=expert.device)))
    block = min(1024, triton.next_power_of_2(width))
    grid = (triton.cdiv(len(recv), 8), triton.cdiv(width, block))
    _take[grid](recv, recv_source, rows, order, expert_offsets[own:], len(recv), width, top_k, ROWS=8, BLOCK=block, num_warps=8)
