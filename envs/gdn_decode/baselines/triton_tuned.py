"""A Triton kernel of our own that updates the state in place, as engines do: theirs cannot be installed without all of them."""

import triton
import triton.language as tl


@triton.jit
def _step(
    q, k, v, state, rate, a, dt_bias, b, output, scale, heads, value_heads, keys, values,
    NORM: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):
    head, sequence = tl.program_id(1), tl.program_id(2).to(tl.int64)
    row, shared = sequence * value_heads + head, sequence * heads + head // (value_heads // heads)
    i = tl.arange(0, BLOCK_K)
    e = tl.program_id(0) * BLOCK_V + tl.arange(0, BLOCK_V)
    inside = (i < keys)[:, None] & (e < values)[None, :]
    place = state + (row * keys + i)[:, None] * values + e[None, :]
    held = tl.load(place, mask=inside, other=0.0)
    query = tl.load(q + shared * keys + i, mask=i < keys, other=0.0).to(tl.float32)
    key = tl.load(k + shared * keys + i, mask=i < keys, other=0.0).to(tl.float32)
    if NORM:
        query *= tl.rsqrt(tl.sum(query * query, 0) + 1e-6)
        key *= tl.rsqrt(tl.sum(key * key, 0) + 1e-6)
    step = tl.load(a + row).to(tl.float32) + tl.load(dt_bias + head).to(tl.float32)
    step = tl.where(step > 20.0, step, tl.log(1.0 + tl.exp(step)))
    held *= tl.exp(-tl.exp(tl.load(rate + head)) * step)
    value = tl.load(v + row * values + e, mask=e < values, other=0.0).to(tl.float32)
    delta = tl.sigmoid(tl.load(b + row).to(tl.float32)) * (value - tl.sum(held * key[:, None], 0))
    held += key[:, None] * delta[None, :]
    tl.store(place, held, mask=inside)
    result = tl.sum(held * query[:, None], 0) * scale
    tl.store(output + row * values + e, result.to(output.dtype.element_ty), mask=e < values)


def gated_delta_rule_decode(q, k, v, state, A_log, a, dt_bias, b, scale, output, use_qk_l2norm):
    batch, value_heads, keys, values = state.shape
    if batch:
        block_k = triton.next_power_of_2(keys)
        block_v = max(8, min(triton.next_power_of_2(values), (8192 if batch * value_heads >= 1024 else 2048) // block_k))
        _step[(triton.cdiv(values, block_v), value_heads, batch)](
            q, k, v, state, A_log, a, dt_bias, b, output, scale, q.shape[2], value_heads, keys, values,
            NORM=use_qk_l2norm, BLOCK_K=block_k, BLOCK_V=block_v, num_warps=4,
        )
