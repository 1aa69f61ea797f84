"""The process group's all-gather (NCCL, gloo), then PyTorch's matrix product."""

import torch
import torch.distributed as dist


def allgather_gemm(out, input, weight, comm):
    rows = torch.empty(comm.world_size * len(input), input.shape[1], dtype=input.dtype, device=input.device)
    dist.all_gather_into_tensor(rows, input, group=comm.group)
    torch.mm(rows, weight.t(), out=out)
