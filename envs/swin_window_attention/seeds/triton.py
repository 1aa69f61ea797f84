import math

import torch
import triton
import triton.language as tl


@triton.jit
def _attend(
    out, qkv, scales, biases, masks, tokens, heads, width, side, places,
    SHIFTED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):
    # One program per block of queries, window and head.
    window = tl.program_id(1)
    head = tl.program_id(2)
    channels = heads * width
    span = 2 * side - 1
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.arange(0, BLOCK_N)
    d = tl.arange(0, BLOCK_D)
    start = window.to(tl.int64) * tokens * 3 * channels + head * width
    query = tl.load(
        qkv + start + m[:, None] * 3 * channels + d[None, :], mask=(m < tokens)[:, None] & (d < width)[None, :], other=0.0
    )
    wide = query.to(tl.float32)
    left = tl.load(scales + head) / tl.maximum(tl.sqrt(tl.sum(wide * wide, 1)), 1e-12)
    # The bias of a head is a table of span x span numbers, which stays in the first cache.
    bias = biases + head * span * span + (m // side + side - 1) * span + m % side + side - 1
    mask_row = masks + (window % places).to(tl.int64) * tokens * tokens + m * tokens
    highest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    weight = tl.zeros((BLOCK_M,), tl.float32)
    result = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for low in range(0, tokens, BLOCK_N):
        j = low + n
        live = (j < tokens)[:, None] & (d < width)[None, :]
        place = qkv + start + j[:, None] * 3 * channels + d[None, :]
        keys = tl.load(place + channels, mask=live, other=0.0)
        values = tl.load(place + 2 * channels, mask=live, other=0.0)
        wide = keys.to(tl.float32)
        right = 1.0 / tl.maximum(tl.sqrt(tl.sum(wide * wide, 1)), 1e-12)
        score = tl.dot(query, tl.trans(keys), input_precision="ieee") * left[:, None] * right[None, :]
        both = (m < tokens)[:, None] & (j < tokens)[None, :]
        score += tl.load(bias[:, None] - (j // side * span + j % side)[None, :], mask=both, other=0.0)
        if SHIFTED:
            score += tl.load(mask_row[:, None] + j[None, :], mask=both, other=0.0)
        score = tl.where((j < tokens)[None, :], score * 1.4426950408889634, float("-inf"))
        above = tl.maximum(highest, tl.max(score, 1))
        shrink = tl.exp2(highest - above)
        odds = tl.exp2(score - above[:, None])
        weight = weight * shrink + tl.sum(odds, 1)
        result = tl.dot(odds.to(values.dtype), values, result * shrink[:, None], input_precision="ieee")
        highest = above
    own = out + window.to(tl.int64) * tokens * channels + m[:, None] * channels + head * width + d[None, :]
    tl.store(own, (result / weight[:, None]).to(out.dtype.element_ty), mask=(m < tokens)[:, None] & (d < width)[None, :])


def prepare(out, qkv, logit_scale, bias_table, mask, window_size, shifted):
    return _weights(logit_scale, bias_table)


def swin_window_attention(out, qkv, logit_scale, bias_table, mask, window_size, shifted, *, prepared=None):
    windows, tokens, channels = out.shape
    if windows == 0:
        return
    scales, biases = _weights(logit_scale, bias_table) if prepared is None else prepared
    heads = logit_scale.shape[0]
    width = channels // heads
    block = min(64, max(16, triton.next_power_of_2(tokens)))
    _attend[(triton.cdiv(tokens, block), windows, heads)](
        out, qkv, scales, biases, mask, tokens, heads, width, window_size, mask.shape[0],
        SHIFTED=shifted, BLOCK_M=block, BLOCK_N=block, BLOCK_D=max(16, triton.next_power_of_2(width)), num_warps=4, num_stages=2,
    )


def _weights(logit_scale, bias_table):
    """Factors of the cosines, and the bias head by head."""
    return torch.exp(logit_scale.clamp(max=math.log(100.0))), (16.0 * torch.sigmoid(bias_table)).t().contiguous()
