"""What PyTorch's fused operator is made of (symmetric memory, copies beside products), writing its products where they belong."""

import torch
import torch.distributed._symmetric_memory as symmetric_memory


def allgather_gemm(out, input, weight, comm):
    if not len(input):
        return
    rows = torch.empty(comm.world_size * len(input), input.shape[1], dtype=input.dtype, device=input.device)
    places = out.chunk(comm.world_size)

    def multiply(shard, rank):
        torch.mm(shard, weight.t(), out=places[rank])

    symmetric_memory._pipelined_all_gather_and_consume(input, multiply, rows, comm.group.group_name, ag_out_needed=False)
