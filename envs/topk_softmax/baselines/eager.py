"""PyTorch's softmax and a stable sort: `topk` may break ties either way."""

import torch


def topk_softmax(topk_weights, topk_ids, token_expert_indices, gating_output, topk, renormalize):
    tokens = gating_output.shape[0]
    logits, ids = gating_output.float().sort(dim=1, descending=True, stable=True)
    weights = (logits[:, :topk] - logits.logsumexp(1, keepdim=True)).exp()
    topk_weights.copy_(weights / weights.sum(1, keepdim=True) if renormalize else weights)
    topk_ids.copy_(ids[:, :topk])
    place = torch.arange(tokens * topk, dtype=torch.int32, device=gating_output.device)
    token_expert_indices.copy_(place.view(topk, tokens).T)
