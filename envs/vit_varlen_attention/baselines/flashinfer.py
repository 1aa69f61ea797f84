"""FlashInfer's prefill over packed sequences, planned ahead. Head sizes that it lacks are padded with zeros."""

import functools

import torch
from flashinfer import BatchPrefillWithRaggedKVCacheWrapper


@functools.cache
def _workspace(device):
    # Calls follow one another on a stream, so that every wrapper can share one buffer for its partial results.
    return torch.zeros(128 * 2**20, dtype=torch.uint8, device=device)


def _padding(width):
    return (64 if width <= 64 else 128 if width <= 128 else 256) - width


def plan(out, q, k, v, cu_seqlens, max_seqlen):
    if q.shape[0] == 0:
        return None
    wrapper = BatchPrefillWithRaggedKVCacheWrapper(_workspace(cu_seqlens.device), "NHD")
    heads, width = q.shape[1:]
    wrapper.plan(
        cu_seqlens, cu_seqlens, heads, heads, width + _padding(width), causal=False, sm_scale=width**-0.5,
        q_data_type=q.dtype, kv_data_type=k.dtype,
    )
    return wrapper


def vit_varlen_attention(out, q, k, v, cu_seqlens, max_seqlen, plan):
    if plan is None:
        return
    width = q.shape[2]
    more = _padding(width)
    if more:
        q, k, v = (torch.nn.functional.pad(x, (0, more)) for x in (q, k, v))
        out.copy_(plan.run(q, k, v)[..., :width])
    else:
        plan.run(q.contiguous(), k.contiguous(), v.contiguous(), out=out)
