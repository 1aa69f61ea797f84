"""FlashInfer's paged prefill, planned ahead as serving engines do."""

import functools

import torch
from flashinfer import BatchPrefillWithPagedKVCacheWrapper


@functools.cache
def _workspace(device):
    # Calls follow one another on a stream, so that every wrapper can share one buffer for its partial results.
    return torch.zeros(256 * 2**20, dtype=torch.uint8, device=device)


def plan(out, lse, q, qo_indptr, k_cache, v_cache, kv_indptr, kv_indices, last_page_len, causal, sm_scale):
    if q.shape[0] == 0:
        return None
    wrapper = BatchPrefillWithPagedKVCacheWrapper(_workspace(kv_indptr.device), "NHD")
    heads, width, page, kv_heads = q.shape[1], q.shape[2], k_cache.shape[1], k_cache.shape[2]
    wrapper.plan(
        qo_indptr, kv_indptr, kv_indices, last_page_len, heads, kv_heads, width, page,
        causal=causal, sm_scale=sm_scale, q_data_type=q.dtype, kv_data_type=k_cache.dtype,
    )
    return wrapper


def gqa_prefill(out, lse, q, qo_indptr, k_cache, v_cache, kv_indptr, kv_indices, last_page_len, causal, sm_scale, plan):
    if plan is not None:
        plan.run(q, (k_cache, v_cache), out=out, lse=lse, return_lse=True)
