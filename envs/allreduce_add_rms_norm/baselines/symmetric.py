"""PyTorch's one-shot all-reduce over symmetric memory, then its own RMSNorm."""

import torch
import torch.distributed._symmetric_memory as symmetric_memory

_buffers = {}


def allreduce_add_rms_norm(norm_out, residual_out, input, residual, weight, epsilon, comm):
    key = (tuple(input.shape), input.dtype)
    if key not in _buffers:
        _buffers[key] = symmetric_memory.empty(*input.shape, dtype=torch.float32, device=input.device)
        symmetric_memory.rendezvous(_buffers[key], comm.group.group_name)
    buffer = _buffers[key]
    buffer.copy_(input)
    total = torch.ops.symm_mem.one_shot_all_reduce(buffer, "sum", comm.group.group_name)
    total += residual
    residual_out.copy_(total)
    norm_out.copy_(torch.nn.functional.rms_norm(total, (total.shape[-1],), weight.float(), epsilon))
