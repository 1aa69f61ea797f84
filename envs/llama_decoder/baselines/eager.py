"""The layer in plain torch: the program around the ops."""

import torch
from torch.nn import functional


def add_rms_norm(out, total, input, residual, weight, epsilon):
    summed = input.float() + residual.float()
    total.copy_(summed)
    out.copy_(functional.rms_norm(summed, weight.shape, weight.float(), epsilon))


def linear(out, input, weight):
    torch.mm(input, weight.T, out=out)


def rope(query, key, positions, cos_sin):
    cos, sin = cos_sin[positions].to(query.dtype)[:, None].chunk(2, -1)
    for heads in (query, key):
        first, second = heads.chunk(2, -1)
        heads.copy_(torch.cat([first * cos - second * sin, second * cos + first * sin], -1))


def cached_attention(out, query, key, value, k_cache, v_cache, lengths, scale):
    # The new token comes first, so that it stands at one place in all sequences.
    known = torch.arange(k_cache.shape[1] + 1, device=lengths.device) <= lengths[:, None]
    keys, values = (torch.cat([new[:, None], cache], 1) for new, cache in ((key, k_cache), (value, v_cache)))
    keys, values = (x.masked_fill(~known[:, :, None, None], 0).transpose(1, 2) for x in (keys, values))
    mixed = functional.scaled_dot_product_attention(query[:, :, None], keys, values, known[:, None, None], scale=scale, enable_gqa=True)
    out.copy_(mixed[:, :, 0])


def silu_and_mul(out, input):
    gate, up = input.chunk(2, -1)
    torch.mul(functional.silu(gate), up, out=out)


def llama_decoder(
    new_hidden, new_residual, key, value, positions, hidden, residual, k_cache, v_cache, lengths, norms, qkv, o,
    gate_up, down, cos_sin, epsilon,
):
    batch, _, groups, head = k_cache.shape
    heads = o.shape[1] // head
    total, normed = torch.empty_like(hidden), torch.empty_like(hidden)
    add_rms_norm(normed, total, hidden, residual, norms[0], epsilon)
    projected = hidden.new_empty(batch, qkv.shape[0])
    linear(projected, normed, qkv)
    query, new_key, new_value = projected.view(batch, heads + 2 * groups, head).split([heads, groups, groups], 1)
    rope(query, new_key, positions, cos_sin)
    held_key, held_value = key.view(new_key.shape), value.view(new_value.shape)
    held_key.copy_(new_key)
    held_value.copy_(new_value)
    mixed = hidden.new_empty(batch, heads, head)
    cached_attention(mixed, query, held_key, held_value, k_cache, v_cache, lengths, head**-0.5)
    added = torch.empty_like(hidden)
    linear(added, mixed.view(batch, heads * head), o)
    add_rms_norm(normed, new_residual, added, total, norms[1], epsilon)
    widened = hidden.new_empty(batch, gate_up.shape[0])
    linear(widened, normed, gate_up)
    activated = hidden.new_empty(batch, down.shape[1])
    silu_and_mul(activated, widened)
    linear(new_hidden, activated, down)
