"""FlashInfer's kernel, as SGLang calls it."""

from flashinfer.rope import apply_rope_with_cos_sin_cache_inplace


def rope(positions, query, key, head_size, cos_sin_cache, is_neox):
    if positions.numel():
        apply_rope_with_cos_sin_cache_inplace(positions, query, key, head_size, cos_sin_cache, is_neox)
