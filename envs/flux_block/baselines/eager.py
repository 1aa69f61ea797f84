"""The block in plain torch: the program around the ops."""

import torch
from torch.nn import functional


def linear_bias(out, input, weight, bias):
    torch.addmm(bias, input, weight.T, out=out)


def layer_norm_modulate(out, input, shift, scale, epsilon):
    normed = functional.layer_norm(input.float(), input.shape[-1:], eps=epsilon)
    out.copy_(torch.addcmul(shift.float()[:, None], normed, 1 + scale.float()[:, None]))


def qk_norm_rope(query, key, norm_q, norm_k, cos_sin, epsilon):
    cos, sin = cos_sin[:, None].chunk(2, -1)
    for heads, weight in ((query, norm_q), (key, norm_k)):
        normed = functional.rms_norm(heads.float(), weight.shape, weight.float(), epsilon)
        first, second = normed.unflatten(-1, (-1, 2)).unbind(-1)
        heads.copy_(torch.stack([first * cos - second * sin, second * cos + first * sin], -1).flatten(-2))


def attention(out, query, key, value):
    views = (heads.transpose(1, 2) for heads in (query, key, value))
    out.copy_(functional.scaled_dot_product_attention(*views).transpose(1, 2))


def gelu_tanh_concat(out, mixed, inner):
    width = mixed.shape[1]
    out[:, :width] = mixed
    out[:, width:] = functional.gelu(inner, approximate="tanh")


def gated_residual(out, residual, branch, gate):
    out.copy_(torch.addcmul(residual.float(), gate.float()[:, None], branch.float()))


def flux_block(
    out, hidden, vec, mod_weight, mod_bias, linear1_weight, linear1_bias, norm_q, norm_k, linear2_weight, linear2_bias, cos_sin, epsilon
):
    batch, tokens, width = hidden.shape
    rows, head = batch * tokens, norm_q.shape[0]
    modulation = hidden.new_empty(batch, 3 * width)
    linear_bias(modulation, functional.silu(vec), mod_weight, mod_bias)
    shift, scale, gate = modulation.chunk(3, 1)
    normed = torch.empty_like(hidden)
    layer_norm_modulate(normed, hidden, shift, scale, epsilon)
    projected = hidden.new_empty(rows, linear1_weight.shape[0])
    linear_bias(projected, normed.flatten(0, 1), linear1_weight, linear1_bias)
    query, key, value = projected[:, : 3 * width].unflatten(1, (3, width // head, head)).unflatten(0, (batch, tokens)).unbind(2)
    qk_norm_rope(query, key, norm_q, norm_k, cos_sin, epsilon)
    mixed = hidden.new_empty(query.shape)
    attention(mixed, query, key, value)
    joined = hidden.new_empty(rows, linear2_weight.shape[1])
    gelu_tanh_concat(joined, mixed.view(rows, width), projected[:, 3 * width :])
    branch = torch.empty_like(hidden)
    linear_bias(branch.view(rows, width), joined, linear2_weight, linear2_bias)
    gated_residual(out, hidden, branch, gate)
