"""PyTorch's RMSNorm and elementwise rotation, in float32."""

import torch


def fused_qk_norm_rope(
    qkv, num_heads_q, num_heads_k, num_heads_v, head_dim, eps, q_weight, k_weight, cos_sin_cache, is_neox, position_ids
):
    cos, sin = cos_sin_cache.index_select(0, position_ids).unsqueeze(1).chunk(2, dim=-1)
    rot, half = cos_sin_cache.shape[1], cos_sin_cache.shape[1] // 2
    first, second = (slice(half), slice(half, rot)) if is_neox else (slice(0, rot, 2), slice(1, rot, 2))
    heads = qkv.unflatten(1, (num_heads_q + num_heads_k + num_heads_v, head_dim))
    for start, count, weight in ((0, num_heads_q, q_weight), (num_heads_q, num_heads_k, k_weight)):
        x = heads[:, start : start + count]
        normed = torch.nn.functional.rms_norm(x.float(), (head_dim,), weight.float(), eps)
        a, b = normed[..., first], normed[..., second]
        x[..., rot:] = normed[..., rot:]
        x[..., first] = a * cos - b * sin
        x[..., second] = b * cos + a * sin
