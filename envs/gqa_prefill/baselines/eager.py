"""One sequence after another: gather its pages, matrix products around a softmax.

`plan` reads lengths and page lists once, so that the calls need no host synchronisation. There is no compiled variant: every draw of
lengths has its own shapes and would compile anew.
"""

import math

import torch


def plan(out, lse, q, qo_indptr, k_cache, v_cache, kv_indptr, kv_indices, last_page_len, causal, sm_scale):
    return _sequences(k_cache.shape[1], qo_indptr, kv_indptr, kv_indices, last_page_len, causal)


def gqa_prefill(out, lse, q, qo_indptr, k_cache, v_cache, kv_indptr, kv_indices, last_page_len, causal, sm_scale, plan=None):
    page, kv_heads = k_cache.shape[1:3]
    if plan is None:
        plan = _sequences(page, qo_indptr, kv_indptr, kv_indices, last_page_len, causal)
    for first, end, pages, length, mask in plan:
        keys, values = (_gather(cache, pages, length) for cache in (k_cache, v_cache))
        query = (q[first:end].float() * sm_scale).unflatten(1, (kv_heads, -1)).permute(1, 2, 0, 3)
        scores = query @ keys.transpose(1, 2).unsqueeze(1)
        if mask is not None:
            scores += mask
        total = scores.logsumexp(-1, keepdim=True)
        result = (scores - total).exp_() @ values.unsqueeze(1)
        out[first:end] = result.permute(2, 0, 1, 3).flatten(1, 2)
        lse[first:end] = total.squeeze(-1).permute(2, 0, 1).flatten(1) / math.log(2)


def _sequences(page, qo_indptr, kv_indptr, kv_indices, last_page_len, causal):
    """Bounds of the queries, page list, length and mask of every sequence."""
    queries, bounds, found = qo_indptr.tolist(), kv_indptr.tolist(), []
    for b, last in enumerate(last_page_len.tolist()):
        pages = kv_indices[bounds[b] : bounds[b + 1]]
        length, count = (pages.numel() - 1) * page + last, queries[b + 1] - queries[b]
        mask = None
        if causal and count > 1:
            mask = torch.full((count, length), float("-inf"), device=kv_indices.device).triu_(length - count + 1)
        found.append((queries[b], queries[b + 1], pages, length, mask))
    return found


def _gather(cache, pages, length):
    """The sequence's rows of a cache, [kv heads, length, d] in float32."""
    return cache.index_select(0, pages).flatten(0, 1)[:length].float().transpose(0, 1)
