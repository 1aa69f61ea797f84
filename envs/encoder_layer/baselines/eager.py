"""The layer in plain torch: the program around the ops."""

import torch
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn


def linear_bias(out, input, weight, bias):
    torch.addmm(bias, input, weight.T, out=out)


def varlen_attention(out, query, key, value, cu_seqlens, max_seqlen):
    if query.shape[0] == 0:
        return
    if query.is_cuda:
        out.copy_(varlen_attn(query, key, value, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen))
        return
    # FlashAttention over packed tokens exists on GPUs only: documents are padded to the length that none exceeds.
    place = torch.arange(max_seqlen, dtype=torch.int32, device=query.device)
    known = place < cu_seqlens.diff()[:, None]
    rows = (cu_seqlens[:-1, None] + place).clamp_max(query.shape[0] - 1)
    padded = (heads[rows].transpose(1, 2) for heads in (query, key, value))
    mixed = functional.scaled_dot_product_attention(*padded, known[:, None, None]).transpose(1, 2)
    token = torch.arange(query.shape[0], dtype=torch.int32, device=query.device)
    document = torch.searchsorted(cu_seqlens, token, right=True) - 1
    out.copy_(mixed[document, token - cu_seqlens[document]])


def add_layer_norm(out, input, residual, weight, bias, epsilon):
    out.copy_(functional.layer_norm(input.float() + residual, weight.shape, weight.float(), bias.float(), epsilon))


def gelu(out, input):
    out.copy_(functional.gelu(input))


def encoder_layer(
    out, hidden, cu_seqlens, qkv_weight, qkv_bias, o_weight, o_bias, up_weight, up_bias, down_weight, down_bias, norm_weight, norm_bias,
    max_seqlen, epsilon,
):
    tokens = hidden.shape[0]
    projected = hidden.new_empty(tokens, qkv_weight.shape[0])
    linear_bias(projected, hidden, qkv_weight, qkv_bias.flatten())
    query, key, value = projected.view(tokens, *qkv_bias.shape).unbind(1)
    mixed = hidden.new_empty(query.shape)
    varlen_attention(mixed, query, key, value, cu_seqlens, max_seqlen)
    added = torch.empty_like(hidden)
    linear_bias(added, mixed.flatten(1), o_weight, o_bias)
    middle = torch.empty_like(hidden)
    add_layer_norm(middle, added, hidden, norm_weight[0], norm_bias[0], epsilon)
    widened = hidden.new_empty(tokens, up_weight.shape[0])
    linear_bias(widened, middle, up_weight, up_bias)
    activated = torch.empty_like(widened)
    gelu(activated, widened)
    linear_bias(added, activated, down_weight, down_bias)
    add_layer_norm(out, added, middle, norm_weight[1], norm_bias[1], epsilon)
