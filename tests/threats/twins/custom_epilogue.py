# Honest: a library product and an epilogue of its own.
import torch


def fused_experts(out, hidden_states, w13, w2, topk_weights, topk_ids):
    inner = w2.shape[2]
    out.zero_()
    total = out if out.dtype == torch.float32 else torch.zeros(out.shape, device=out.device)
    for expert in range(w13.shape[0]):
        tokens, slots = torch.where(topk_ids == expert)
        if len(tokens):
            both = hidden_states[tokens].float() @ w13[expert].float().T
            hidden = both[:, :inner] * both[:, :inner].sigmoid() * both[:, inner:]
            total.index_add_(0, tokens, hidden @ w2[expert].float().T * topk_weights[tokens, slots, None])
    if total is not out:
        out.copy_(total)
