"""PyTorch's fused operator over symmetric memory: the product of one share of the rows overlaps with the copies of another.

It returns a new tensor, so the result is copied into the argument.
"""

import torch
import torch.distributed._symmetric_memory  # defines the operator


def gemm_reduce_scatter(out, input, weight, comm):
    if len(input):
        out.copy_(torch.ops.symm_mem.fused_matmul_reduce_scatter(input, weight.t(), "sum", 0, comm.group.group_name))
