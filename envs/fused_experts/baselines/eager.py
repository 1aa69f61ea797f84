"""A loop over the hit experts, as PyTorch model code runs experts on a CPU.

CPUs without bfloat16 instructions multiply several times faster in float32, so `prepare` widens the weights there once, as an
engine does when it loads the model. There is no compiled variant: the trip count and the row counts depend on the routing, so that
every call would break the graph or compile anew.
"""

import torch

WIDEN = torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2")


def prepare(out, hidden_states, w13, w2, topk_weights, topk_ids):
    return (w13.float(), w2.float()) if WIDEN else (w13, w2)


def fused_experts(out, hidden_states, w13, w2, topk_weights, topk_ids, prepared=None):
    gate_up, down = prepared or (w13, w2)
    inner, top_k = w2.shape[2], topk_ids.shape[1]
    flat = topk_ids.flatten()
    order = flat.argsort(stable=True)
    rows = hidden_states.index_select(0, order // top_k).to(gate_up.dtype)
    scale = topk_weights.flatten()[order, None]
    counts = flat.bincount(minlength=w13.shape[0]).tolist()
    total = torch.zeros(hidden_states.shape, dtype=torch.float32)
    first = 0
    for expert, count in enumerate(counts):
        if count:
            span = slice(first, first + count)
            both = (rows[span] @ gate_up[expert].T).float()
            hidden = torch.nn.functional.silu(both[:, :inner]) * both[:, inner:]
            total.index_add_(0, order[span] // top_k, (hidden.to(down.dtype) @ down[expert].T) * scale[span])
            first += count
    out.copy_(total)
