"""The norms and the rotation in PyTorch, then cuDNN's attention where it takes the shape."""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import rms_norm, scaled_dot_product_attention

BACKENDS = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def joint_attention(
    out, encoder_out, query, key, value, encoder_query, encoder_key, encoder_value,
    norm_q, norm_k, norm_added_q, norm_added_k, cos, sin, eps,
):
    q = _rotated(query, norm_q, encoder_query, norm_added_q, cos, sin, eps)
    k = _rotated(key, norm_k, encoder_key, norm_added_k, cos, sin, eps)
    v = torch.cat((encoder_value, value), 1)
    if not q.numel():
        return
    with sdpa_kernel(BACKENDS, set_priority=True):
        result = scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)
    encoder_out.copy_(result[:, : encoder_query.shape[1]])
    out.copy_(result[:, encoder_query.shape[1] :])


def _rotated(x, weight, encoder_x, encoder_weight, cos, sin, eps):
    normed = torch.cat((rms_norm(encoder_x, weight.shape, encoder_weight, eps), rms_norm(x, weight.shape, weight, eps)), 1)
    first, second = normed.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.stack((first * cos - second * sin, second * cos + first * sin), -1).flatten(-2).to(x.dtype)
