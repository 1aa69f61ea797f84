"""FlashInfer's norm of heads, for query and for key, and its rotation: three kernels, which round in between."""

from flashinfer.norm import rmsnorm
from flashinfer.rope import apply_rope_with_cos_sin_cache_inplace


def fused_qk_norm_rope(
    qkv, num_heads_q, num_heads_k, num_heads_v, head_dim, eps, q_weight, k_weight, cos_sin_cache, is_neox, position_ids
):
    if not len(qkv):
        return
    query, key = qkv[:, : num_heads_q * head_dim], qkv[:, num_heads_q * head_dim : (num_heads_q + num_heads_k) * head_dim]
    for x, weight in ((query, q_weight), (key, k_weight)):
        heads = x.unflatten(1, (-1, head_dim))
        rmsnorm(heads, weight, eps, out=heads)
    apply_rope_with_cos_sin_cache_inplace(position_ids, query, key, head_dim, cos_sin_cache, is_neox)
