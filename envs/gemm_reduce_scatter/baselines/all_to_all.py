"""PyTorch's matrix product, then an exchange of the rows and a sum in float32: with two ranks no more is sent than in a reduce-scatter."""

import torch
import torch.distributed as dist


def gemm_reduce_scatter(out, input, weight, comm):
    product = torch.mm(input, weight.t())
    parts = torch.empty_like(product)
    dist.all_to_all_single(parts, product, group=comm.group)
    torch.sum(parts.view(comm.world_size, *out.shape), 0, out=out)
