"""The block in plain torch: the program around the ops."""

import torch
from torch.nn import functional


def linear(out, input, weight):
    torch.mm(input, weight.T, out=out)


def linear_bias(out, input, weight, bias):
    torch.addmm(bias, input, weight.T, out=out)


def layer_norm_modulate(out, input, shift, scale, epsilon):
    normed = functional.layer_norm(input.float(), input.shape[-1:], eps=epsilon)
    out.copy_(torch.addcmul(shift.float()[:, None], normed, 1 + scale.float()[:, None]))


def axial_rope(query, key, cos_sin, temporal):
    cos, sin = (cos_sin[:, None, None] if temporal else cos_sin[:, None]).chunk(2, -1)
    for heads in (query, key):
        first, second = heads.float().unflatten(-1, (-1, 2)).unbind(-1)
        heads.copy_(torch.stack([first * cos - second * sin, second * cos + first * sin], -1).flatten(-2))


def axial_attention(out, query, key, value, temporal):
    # The other axis goes to the batch.
    order = (0, 2, 3, 1, 4) if temporal else (0, 1, 3, 2, 4)
    views = (heads.permute(order).flatten(0, 1) for heads in (query, key, value))
    result = functional.scaled_dot_product_attention(*views, is_causal=temporal)
    out.permute(order).copy_(result.view(out.permute(order).shape))


def gelu_tanh(out, input):
    out.copy_(functional.gelu(input, approximate="tanh"))


def gated_residual(out, residual, branch, gate):
    out.copy_(torch.addcmul(residual.float(), gate.float()[:, None], branch.float()))


def oasis_block(
    out, hidden, vec, mod_weight, mod_bias, qkv_weight, o_weight, o_bias, up_weight, up_bias, down_weight, down_bias, space_cos_sin,
    time_cos_sin, epsilon,
):
    clips, frames, tokens, width = hidden.shape
    rows, head = clips * frames * tokens, space_cos_sin.shape[1]
    x, active = hidden.flatten(0, 1), functional.silu(vec).flatten(0, 1)
    for half, table in enumerate((space_cos_sin, time_cos_sin)):
        temporal = half == 1
        modulation = hidden.new_empty(clips * frames, 6 * width)
        linear_bias(modulation, active, mod_weight[half], mod_bias[half])
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation.chunk(6, 1)
        normed, branch, total = (torch.empty_like(x) for _ in range(3))
        layer_norm_modulate(normed, x, shift, scale, epsilon)
        projected = hidden.new_empty(rows, 3 * width)
        linear(projected, normed.view(rows, width), qkv_weight[half])
        query, key, value = projected.view(clips, frames, tokens, 3, width // head, head).unbind(3)
        axial_rope(query, key, table, temporal)
        mixed = hidden.new_empty(query.shape)
        axial_attention(mixed, query, key, value, temporal)
        linear_bias(branch.view(rows, width), mixed.view(rows, width), o_weight[half], o_bias[half])
        gated_residual(total, x, branch, gate)
        layer_norm_modulate(normed, total, mlp_shift, mlp_scale, epsilon)
        widened = hidden.new_empty(rows, up_weight.shape[1])
        linear_bias(widened, normed.view(rows, width), up_weight[half], up_bias[half])
        activated = torch.empty_like(widened)
        gelu_tanh(activated, widened)
        linear_bias(branch.view(rows, width), activated, down_weight[half], down_bias[half])
        x = out.view(x.shape) if temporal else torch.empty_like(x)
        gated_residual(x, total, branch, mlp_gate)
