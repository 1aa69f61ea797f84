"""FlashInfer's paged decode on tensor cores, planned ahead as serving engines do."""

import functools

import torch
from flashinfer import BatchDecodeWithPagedKVCacheWrapper


@functools.cache
def _workspace(device):
    # Calls follow one another on a stream, so that every wrapper can share one buffer for its partial results.
    return torch.zeros(128 * 2**20, dtype=torch.uint8, device=device)


def plan(out, lse, q, k_cache, v_cache, kv_indptr, kv_indices, last_page_len, sm_scale):
    if q.shape[0] == 0:
        return None
    wrapper = BatchDecodeWithPagedKVCacheWrapper(_workspace(kv_indptr.device), "NHD", use_tensor_cores=True)
    heads, kv_heads, width, page = q.shape[1], k_cache.shape[2], q.shape[2], k_cache.shape[1]
    wrapper.plan(
        kv_indptr, kv_indices, last_page_len, heads, kv_heads, width, page,
        q_data_type=q.dtype, kv_data_type=k_cache.dtype, sm_scale=sm_scale,
    )
    return wrapper


def gqa_decode(out, lse, q, k_cache, v_cache, kv_indptr, kv_indices, last_page_len, sm_scale, plan):
    if plan is not None:
        plan.run(q, (k_cache, v_cache), out=out, lse=lse, return_lse=True)
