import torch
import triton
import triton.language as tl


@triton.jit
def _prepare(
    ready, x, weight, cos, sin, tokens, ahead, total, heads, eps, HEADS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):
    # All heads of one token, normalised and rotated, to their place among the tokens of both streams.
    t, sample = tl.program_id(0), tl.program_id(1).to(tl.int64)
    head = tl.arange(0, HEADS)[:, None]
    channel = tl.arange(0, BLOCK)[None, :]
    inside = (head < heads) & (channel < WIDTH)
    place = head * WIDTH + channel
    values = tl.load(x + (sample * tokens + t) * heads * WIDTH + place, mask=inside, other=0.0).to(tl.float32)
    gain = tl.load(weight + channel, mask=channel < WIDTH, other=0.0).to(tl.float32)
    values = values * (1.0 / tl.sqrt(tl.sum(values * values, 1) / WIDTH + eps))[:, None] * gain
    pair = tl.arange(0, BLOCK // 2)
    angle = (ahead + t) * (WIDTH // 2) + pair
    c = tl.load(cos + angle, mask=pair < WIDTH // 2, other=0.0)[None, :]
    s = tl.load(sin + angle, mask=pair < WIDTH // 2, other=0.0)[None, :]
    a, b = tl.split(tl.reshape(values, (HEADS, BLOCK // 2, 2)))
    turned = tl.reshape(tl.join(a * c - b * s, b * c + a * s), (HEADS, BLOCK))
    tl.store(ready + (sample * total + ahead + t) * heads * WIDTH + place, turned.to(ready.dtype.element_ty), mask=inside)


@triton.jit
def _over(
    query, keys, values, tokens, step, scale, highest, weight, result,
    WIDTH: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):
    # Goes on with attention over the tokens of one stream.
    n = tl.arange(0, BLOCK_N)
    d = tl.arange(0, BLOCK_D)[None, :]
    for start in range(0, tokens, BLOCK_N):
        place = (start + n)[:, None] * step + d
        live = (start + n < tokens)[:, None] & (d < WIDTH)
        k = tl.load(keys + place, mask=live, other=0.0)
        score = tl.dot(query, tl.trans(k), input_precision="ieee") * scale
        score = tl.where((start + n < tokens)[None, :], score, float("-inf"))
        above = tl.maximum(highest, tl.max(score, 1))
        shrink = tl.exp2(highest - above)
        odds = tl.exp2(score - above[:, None])
        weight = weight * shrink + tl.sum(odds, 1)
        v = tl.load(values + place, mask=live, other=0.0)
        result = tl.dot(odds.to(v.dtype), v, result * shrink[:, None], input_precision="ieee")
        highest = above
    return highest, weight, result


@triton.jit
def _attend(
    out, encoder_out, q, k, value, encoder_value, text, image, heads, scale,
    WIDTH: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):
    # One program per block of tokens of both streams, head and sample; first the text's keys, then the image's.
    head, sample = tl.program_id(1), tl.program_id(2).to(tl.int64)
    total, step = text + image, heads * WIDTH
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)[None, :]
    there = (m < total)[:, None] & (d < WIDTH)
    own = sample * total * step + head * WIDTH
    query = tl.load(q + own + m[:, None] * step + d, mask=there, other=0.0)
    highest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    weight = tl.zeros((BLOCK_M,), tl.float32)
    result = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    highest, weight, result = _over(
        query, k + own, encoder_value + sample * text * step + head * WIDTH, text, step, scale, highest, weight, result,
        WIDTH, BLOCK_N, BLOCK_D,
    )
    highest, weight, result = _over(
        query, k + own + text * step, value + sample * image * step + head * WIDTH, image, step, scale, highest, weight, result,
        WIDTH, BLOCK_N, BLOCK_D,
    )
    result = (result / weight[:, None]).to(out.dtype.element_ty)
    tl.store(encoder_out + (sample * text + m)[:, None] * step + head * WIDTH + d, result, mask=there & (m < text)[:, None])
    tl.store(out + (sample * image + m - text)[:, None] * step + head * WIDTH + d, result, mask=there & (m >= text)[:, None])


def joint_attention(
    out, encoder_out, query, key, value, encoder_query, encoder_key, encoder_value,
    norm_q, norm_k, norm_added_q, norm_added_k, cos, sin, eps,
):
    batch, image, heads, width = query.shape
    text = encoder_query.shape[1]
    if batch == 0:
        return
    total, block_d, wide = text + image, max(16, triton.next_power_of_2(width)), query.element_size() > 2
    q, k = torch.empty(2, batch, total, heads, width, dtype=query.dtype, device=query.device)
    jobs = (
        (q, encoder_query, norm_added_q, text, 0), (q, query, norm_q, image, text),
        (k, encoder_key, norm_added_k, text, 0), (k, key, norm_k, image, text),
    )
    for ready, x, weight, tokens, ahead in jobs:
        _prepare[(tokens, batch)](
            ready, x, weight, cos, sin, tokens, ahead, total, heads, eps,
            HEADS=triton.next_power_of_2(heads), WIDTH=width, BLOCK=block_d, num_warps=4,
        )
    block_m = 64 if wide else 128
    _attend[(triton.cdiv(total, block_m), heads, batch)](
        out, encoder_out, q, k, value, encoder_value, text, image, heads, width**-0.5 * 1.4426950408889634,
        WIDTH=width, BLOCK_M=block_m, BLOCK_N=32 if wide else 64, BLOCK_D=block_d, num_warps=4 if wide else 8, num_stages=3,
    )
