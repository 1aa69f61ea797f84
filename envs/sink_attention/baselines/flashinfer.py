"""FlashInfer's paged attention with sinks (its fa2 kernels), planned ahead as serving engines do."""

import functools

import torch
from flashinfer import BatchAttentionWithAttentionSinkWrapper


@functools.cache
def _workspace(device):
    # Calls follow one another on a stream, so that every wrapper can share one buffer for its partial results.
    return torch.zeros(128 * 2**20, dtype=torch.uint8, device=device)


def plan(out, q, k_cache, v_cache, sinks, kv_indptr, kv_indices, last_page_len, window_left, sm_scale):
    batch, heads, width = q.shape
    if batch == 0:
        return None
    wrapper = BatchAttentionWithAttentionSinkWrapper(
        _workspace(kv_indptr.device), "NHD", backend="fa2", q_data_type=q.dtype, kv_data_type=k_cache.dtype,
        head_dim_qk=width, head_dim_vo=width, window_left=window_left,
    )
    page, kv_heads = k_cache.shape[1:3]
    queries = torch.arange(batch + 1, dtype=torch.int32, device=kv_indptr.device)
    wrapper.plan(
        queries, kv_indptr, kv_indices, last_page_len, heads, kv_heads, width, page,
        causal=True, window_left=window_left, q_data_type=q.dtype, kv_data_type=k_cache.dtype,
    )
    return wrapper


def sink_attention(out, q, k_cache, v_cache, sinks, kv_indptr, kv_indices, last_page_len, window_left, sm_scale, plan):
    if plan is not None:
        plan.run(q, (k_cache, v_cache), sinks, sm_scale, out=out)
