"""PyTorch's grouped matrix product over rows sorted by expert.

The sort and the group ends stay on the device, so that the call can be captured in a CUDA graph. On CPUs without bfloat16
instructions `prepare` widens the weights once, as an engine does when it loads the model. There is no compiled variant: Inductor
calls the same products, and their shape rule refuses float32.
"""

import torch

WIDEN = torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2")


def prepare(out, hidden_states, w13, w2, topk_weights, topk_ids):
    return (w13.float(), w2.float()) if WIDEN and w2.device.type == "cpu" else (w13, w2)


def fused_experts(out, hidden_states, w13, w2, topk_weights, topk_ids, prepared=None):
    gate_up, down = prepared or (w13, w2)
    tokens, top_k = topk_ids.shape
    if tokens == 0:
        return
    owner, order = topk_ids.flatten().sort(stable=True)
    experts = torch.arange(w13.shape[0], dtype=owner.dtype, device=owner.device)
    ends = torch.searchsorted(owner, experts, right=True).to(torch.int32)
    rows = hidden_states.index_select(0, order // top_k).to(gate_up.dtype)
    gate, up = torch._grouped_mm(rows, gate_up.transpose(1, 2), offs=ends).chunk(2, dim=1)
    hidden = (torch.nn.functional.silu(gate.float()) * up).to(down.dtype)
    result = torch._grouped_mm(hidden, down.transpose(1, 2), offs=ends)
    place = torch.empty_like(order).scatter_(0, order, torch.arange(order.numel(), device=order.device))
    parts = result.index_select(0, place).view(tokens, top_k, -1)
    out.copy_((parts.float() * topk_weights[:, :, None]).sum(1))
