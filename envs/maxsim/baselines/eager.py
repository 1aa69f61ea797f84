"""One matrix product, a mask, a maximum and a sum, as ColBERT does it."""

import torch


def maxsim(out, query_vecs, doc_vecs, doc_mask):
    queries, tokens, _ = query_vecs.shape
    scores = torch.matmul(doc_vecs, query_vecs.flatten(0, 1).T)
    best = scores.masked_fill_(~doc_mask.unsqueeze(-1), float("-inf")).amax(1)
    out.copy_(best.view(-1, queries, tokens).sum(-1).T)
