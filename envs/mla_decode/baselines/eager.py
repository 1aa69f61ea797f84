"""One sequence after another: gather its pages, matrix products around a softmax.

`plan` reads lengths and page lists once, so that the calls need no host synchronisation and can be captured in a CUDA graph. There
is no compiled variant: every draw of lengths has its own shapes and would compile anew.
"""

import itertools
import math

import torch


def plan(out, lse, q_nope, q_pe, kv_cache, kv_indptr, kv_indices, last_page_len, sm_scale):
    return _sequences(kv_cache.shape[1], kv_indptr, kv_indices, last_page_len)


def mla_decode(out, lse, q_nope, q_pe, kv_cache, kv_indptr, kv_indices, last_page_len, sm_scale, plan=None):
    sequences = _sequences(kv_cache.shape[1], kv_indptr, kv_indices, last_page_len) if plan is None else plan
    query = torch.cat((q_nope, q_pe), -1).float() * sm_scale
    for b, (pages, length) in enumerate(sequences):
        rows = kv_cache.index_select(0, pages).flatten(0, 1)[:length].float()
        scores = query[b] @ rows.T
        total = scores.logsumexp(-1, keepdim=True)
        out[b] = (scores - total).exp() @ rows[:, : q_nope.shape[2]]
        lse[b] = total.flatten() / math.log(2)


def _sequences(page, kv_indptr, kv_indices, last_page_len):
    """Page list and length of every sequence."""
    bounds = kv_indptr.tolist()
    lists = [kv_indices[first:end] for first, end in itertools.pairwise(bounds)]
    return [(pages, (pages.numel() - 1) * page + last) for pages, last in zip(lists, last_page_len.tolist(), strict=True)]
