"""One sequence after another: gather its pages, matrix products around a softmax.

`plan` reads lengths and page lists once, so that the calls need no host synchronisation and can be captured in a CUDA graph. There
is no compiled variant: every draw of lengths has its own shapes and would compile anew.
"""

import itertools
import math


def plan(out, lse, q, k_cache, v_cache, kv_indptr, kv_indices, last_page_len, sm_scale):
    return _sequences(k_cache.shape[1], kv_indptr, kv_indices, last_page_len)


def gqa_decode(out, lse, q, k_cache, v_cache, kv_indptr, kv_indices, last_page_len, sm_scale, plan=None):
    page, kv_heads = k_cache.shape[1:3]
    sequences = _sequences(page, kv_indptr, kv_indices, last_page_len) if plan is None else plan
    for b, (pages, length) in enumerate(sequences):
        keys, values = (_gather(cache, pages, length) for cache in (k_cache, v_cache))
        scores = (q[b].float() * sm_scale).unflatten(0, (kv_heads, -1)) @ keys.transpose(1, 2)
        total = scores.logsumexp(-1, keepdim=True)
        out[b] = ((scores - total).exp() @ values).flatten(0, 1)
        lse[b] = total.flatten() / math.log(2)


def _sequences(page, kv_indptr, kv_indices, last_page_len):
    """Page list and length of every sequence."""
    bounds = kv_indptr.tolist()
    lists = [kv_indices[first:end] for first, end in itertools.pairwise(bounds)]
    return [(pages, (pages.numel() - 1) * page + last) for pages, last in zip(lists, last_page_len.tolist(), strict=True)]


def _gather(cache, pages, length):
    """The sequence's rows of a cache, [kv heads, length, d] in float32."""
    return cache.index_select(0, pages).flatten(0, 1)[:length].float().transpose(0, 1)
