"""PyTorch's own attention on views: the other axis goes to the batch, or to the heads."""

import torch


def axial_attention(out, q, k, v, temporal, scale):
    # Clips and frames lie side by side, and so do patches and heads: neither merge copies.
    views = [(x.flatten(2, 3) if temporal else x.flatten(0, 1)).transpose(1, 2) for x in (q, k, v)]
    result = torch.nn.functional.scaled_dot_product_attention(*views, is_causal=temporal, scale=scale)
    out.copy_(result.transpose(1, 2).reshape(out.shape))
