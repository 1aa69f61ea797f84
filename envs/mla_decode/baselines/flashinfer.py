"""FlashInfer's paged latent attention, the kernels that it chooses for the device (fa3 on Hopper), planned ahead as serving engines do."""

import functools

import torch
from flashinfer.mla import BatchMLAPagedAttentionWrapper


@functools.cache
def _workspace(device):
    # Calls follow one another on a stream, so that every wrapper can share one buffer for its partial results.
    return torch.zeros(128 * 2**20, dtype=torch.uint8, device=device)


def plan(out, lse, q_nope, q_pe, kv_cache, kv_indptr, kv_indices, last_page_len, sm_scale):
    batch, heads, latent = q_nope.shape
    if batch == 0:
        return None
    page = kv_cache.shape[1]
    wrapper = BatchMLAPagedAttentionWrapper(_workspace(kv_indptr.device), backend="auto")
    wrapper.plan(
        qo_indptr=torch.arange(batch + 1, dtype=torch.int32, device=kv_indptr.device), kv_indptr=kv_indptr, kv_indices=kv_indices,
        kv_len_arr=(kv_indptr.diff() - 1) * page + last_page_len, num_heads=heads, head_dim_ckv=latent, head_dim_kpe=q_pe.shape[2],
        page_size=page, causal=False, sm_scale=sm_scale, q_data_type=q_nope.dtype, kv_data_type=kv_cache.dtype,
    )
    return wrapper


def mla_decode(out, lse, q_nope, q_pe, kv_cache, kv_indptr, kv_indices, last_page_len, sm_scale, plan=None):
    if plan is not None:
        latent = q_nope.shape[2]
        plan.run(q_nope, q_pe, kv_cache[..., :latent], kv_cache[..., latent:], out=out, lse=lse, return_lse=True)
