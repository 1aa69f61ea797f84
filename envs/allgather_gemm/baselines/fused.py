"""PyTorch's fused operator over symmetric memory: products of the rows that are here already overlap with the copies of the others.

It returns a new tensor, so the result is copied into the argument; `pipelined.py` does without.
"""

import torch
import torch.distributed._symmetric_memory  # defines the operator


def allgather_gemm(out, input, weight, comm):
    if len(input):
        _, products = torch.ops.symm_mem.fused_all_gather_matmul(input, [weight.t()], 0, comm.group.group_name, return_A=False)
        out.copy_(products[0])
