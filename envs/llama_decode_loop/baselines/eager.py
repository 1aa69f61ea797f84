"""The loop in plain torch: the program around the ops."""

import torch
from torch.nn import functional

COMPILED = ("step",)


def rms_norm(out, input, weight, epsilon):
    out.copy_(functional.rms_norm(input, weight.shape, weight, epsilon))


def linear(out, input, weight):
    torch.mm(input, weight.T, out=out)


def rope(query, key, positions, cos_sin):
    cos, sin = cos_sin[positions].to(query.dtype)[:, None].chunk(2, -1)
    for heads in (query, key):
        first, second = heads.chunk(2, -1)
        heads.copy_(torch.cat([first * cos - second * sin, second * cos + first * sin], -1))


def decode_attention(out, query, keys, values, lengths, scale):
    mask = torch.arange(keys.shape[1], device=keys.device) < lengths[:, None]
    keys, values = keys.transpose(1, 2), values.transpose(1, 2)
    mixed = functional.scaled_dot_product_attention(query[:, :, None], keys, values, mask[:, None, None], scale=scale, enable_gqa=True)
    out.copy_(mixed[:, :, 0])


def silu_and_mul(out, input):
    gate, up = input.chunk(2, -1)
    torch.mul(functional.silu(gate), up, out=out)


def step(token, positions, keys, values, embedding, norms, qkv, o, gate_up, down, final_norm, lm_head, cos_sin, epsilon):
    """The normalised hidden state behind the last layer, and the next token, of every sequence."""
    groups, head = keys.shape[3:]
    rows = torch.arange(token.shape[0], device=token.device)
    x = embedding[token]
    for layer in range(qkv.shape[0]):
        normed = torch.empty_like(x)
        rms_norm(normed, x, norms[layer, 0], epsilon)
        projected = x.new_empty(x.shape[0], qkv.shape[1])
        linear(projected, normed, qkv[layer])
        split = projected.view(x.shape[0], qkv.shape[1] // head, head)
        query, key, value = split[:, : -2 * groups], split[:, -2 * groups : -groups], split[:, -groups:]
        rope(query, key, positions, cos_sin)
        keys[layer, rows, positions] = key
        values[layer, rows, positions] = value
        mixed = x.new_empty(query.shape)
        decode_attention(mixed, query, keys[layer], values[layer], positions + 1, head**-0.5)
        added = torch.empty_like(x)
        linear(added, mixed.flatten(1), o[layer])
        x = x + added
        rms_norm(normed, x, norms[layer, 1], epsilon)
        widened = x.new_empty(x.shape[0], gate_up.shape[1])
        linear(widened, normed, gate_up[layer])
        activated = x.new_empty(x.shape[0], gate_up.shape[1] // 2)
        silu_and_mul(activated, widened)
        linear(added, activated, down[layer])
        x = x + added
    normed = torch.empty_like(x)
    rms_norm(normed, x, final_norm, epsilon)
    logits = x.new_empty(x.shape[0], lm_head.shape[0])
    linear(logits, normed, lm_head)
    return normed, logits.argmax(-1).to(torch.int32)


def llama_decode_loop(
    tokens, hidden, prompt, given, k_context, v_context, lengths, embedding, norms, qkv, o, gate_up, down, final_norm, lm_head, cos_sin,
    epsilon,
):
    layers, batch, context, groups, head = k_context.shape
    steps = prompt.shape[1]
    keys, values = (cache.new_zeros(layers, batch, context + steps, groups, head) for cache in (k_context, v_context))
    free = (torch.arange(context, device=lengths.device) >= lengths[:, None])[None, :, :, None, None]
    keys[:, :, :context] = k_context.masked_fill(free, 0)
    values[:, :, :context] = v_context.masked_fill(free, 0)
    token = prompt[:, 0]
    for place in range(steps):
        token = torch.where(place < given, prompt[:, place], token)
        normed, token = step(
            token, lengths + place, keys, values, embedding, norms, qkv, o, gate_up, down, final_norm, lm_head, cos_sin, epsilon
        )
        tokens[:, place] = token
        hidden.copy_(torch.where((place == given - 1)[:, None], normed, hidden))
