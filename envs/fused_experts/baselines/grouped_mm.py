"""PyTorch's grouped matrix product over rows sorted by expert.

The sort and the group ends stay on the device, so that the call can be captured in a CUDA graph.
"""

import torch


def fused_experts(out, hidden_states, w13, w2, topk_weights, topk_ids):
    tokens, top_k = topk_ids.shape
    if tokens == 0:
        return
    owner, order = topk_ids.flatten().sort(stable=True)
    experts = torch.arange(w13.shape[0], dtype=owner.dtype, device=owner.device)
    ends = torch.searchsorted(owner, experts, right=True).to(torch.int32)
    gate, up = torch._grouped_mm(hidden_states.index_select(0, order // top_k), w13.transpose(1, 2), offs=ends).chunk(2, dim=1)
    hidden = (torch.nn.functional.silu(gate.float()) * up).to(out.dtype)
    result = torch._grouped_mm(hidden, w2.transpose(1, 2), offs=ends)
    place = torch.empty_like(order).scatter_(0, order, torch.arange(order.numel(), device=order.device))
    parts = result.index_select(0, place).view(tokens, top_k, -1)
    out.copy_((parts.float() * topk_weights[:, :, None]).sum(1))
