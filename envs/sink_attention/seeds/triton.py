import torch
import triton
import triton.language as tl


@triton.jit
def _attend(
    part, top, total, q, k_cache, v_cache, sinks, indptr, indices, last_page, window_left, scale, kv_heads,
    GROUP: tl.constexpr, WIDTH: tl.constexpr, PAGE: tl.constexpr, SPLITS: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_T: tl.constexpr,
):
    # One program per sequence, key-value head and share of what the query sees; shares are whole blocks of tokens. The first share has
    # the sink: a key whose value is zero. If it is the only one, `part` is the output.
    b = tl.program_id(0)
    head = tl.program_id(1)
    split = tl.program_id(2)
    first_page = tl.load(indptr + b)
    length = (tl.load(indptr + b + 1) - first_page - 1) * PAGE + tl.load(last_page + b)
    seen = tl.where(window_left < 0, length, tl.minimum(length, window_left + 1))
    share = tl.cdiv(tl.cdiv(seen, BLOCK_T), SPLITS) * BLOCK_T
    begin = length - seen + split * share
    end = tl.minimum(begin + share, length)

    h = tl.arange(0, BLOCK_H)
    d = tl.arange(0, BLOCK_D)
    row = (b * kv_heads + head).to(tl.int64) * GROUP + h
    inside = (h < GROUP)[:, None] & (d < WIDTH)[None, :]
    query = tl.load(q + row[:, None] * WIDTH + d[None, :], mask=inside, other=0.0)
    sink = tl.load(sinks + head * GROUP + h, mask=h < GROUP, other=0.0) * 1.4426950408889634
    highest = tl.where(split == 0, sink, float("-inf"))
    weight = tl.where(split == 0, 1.0, tl.zeros((BLOCK_H,), tl.float32))
    result = tl.zeros((BLOCK_H, BLOCK_D), tl.float32)
    for start in range(begin, end, BLOCK_T):
        t = start + tl.arange(0, BLOCK_T)
        page = tl.load(indices + first_page + t // PAGE, mask=t < end, other=0).to(tl.int64)
        offset = ((page * PAGE + t % PAGE) * kv_heads + head) * WIDTH
        live = (t < end)[:, None] & (d < WIDTH)[None, :]
        keys = tl.load(k_cache + offset[:, None] + d[None, :], mask=live, other=0.0)
        values = tl.load(v_cache + offset[:, None] + d[None, :], mask=live, other=0.0)
        score = tl.dot(query, tl.trans(keys), input_precision="ieee") * (scale * 1.4426950408889634)
        score = tl.where((t < end)[None, :], score, float("-inf"))
        above = tl.maximum(highest, tl.max(score, 1))
        shrink = tl.exp2(highest - above)
        odds = tl.exp2(score - above[:, None])
        weight = weight * shrink + tl.sum(odds, 1)
        result = result * shrink[:, None] + tl.dot(odds.to(values.dtype), values, input_precision="ieee")
        highest = above
    if SPLITS == 1:
        tl.store(part + row[:, None] * WIDTH + d[None, :], (result / weight[:, None]).to(part.dtype.element_ty), mask=inside)
    else:
        place = row * SPLITS + split
        tl.store(top + place, highest, mask=h < GROUP)
        tl.store(total + place, weight, mask=h < GROUP)
        if begin < end:
            tl.store(part + place[:, None] * WIDTH + d[None, :], result, mask=inside)


@triton.jit
def _merge(out, part, top, total, WIDTH: tl.constexpr, SPLITS: tl.constexpr, BLOCK_D: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    split = tl.arange(0, SPLITS)
    d = tl.arange(0, BLOCK_D)
    highest = tl.load(top + row * SPLITS + split)
    above = tl.max(highest, 0)
    factor = tl.exp2(highest - above)
    weight = tl.sum(tl.load(total + row * SPLITS + split) * factor, 0)
    # Shares past the end of a sequence have no part; their factor is zero. The first one always has a token.
    used = (factor > 0)[:, None] & (d < WIDTH)[None, :]
    values = tl.load(part + (row * SPLITS + split)[:, None] * WIDTH + d[None, :], mask=used, other=0.0)
    result = tl.sum(values * factor[:, None], 0) / weight
    tl.store(out + row * WIDTH + d, result.to(out.dtype.element_ty), mask=d < WIDTH)


def sink_attention(out, q, k_cache, v_cache, sinks, kv_indptr, kv_indices, last_page_len, window_left, sm_scale):
    batch, heads, width = q.shape
    page, kv_heads = k_cache.shape[1:3]
    if batch == 0:
        return
    group, block_d = heads // kv_heads, max(16, triton.next_power_of_2(width))
    block_t = 32 if block_d * q.element_size() > 512 else 64
    # Lengths are on the device, so the number of shares follows what can be seen: about one for each block of an average sequence, and
    # enough that one long sequence among short ones is still spread out. A window is one share.
    splits = 1  # counted up by comparisons: quotients of sizes that are symbols keep Dynamo busy for long
    if window_left < 0 or window_left >= 512:
        while splits < 32 and splits * batch * block_t < kv_indices.numel() * page and splits * batch * kv_heads < 4096:
            splits *= 2
    if splits == 1:
        part = top = total = out
    else:
        part = torch.empty(batch, heads, splits, width, dtype=torch.float32, device=q.device)
        top, total = torch.empty(2, batch, heads, splits, dtype=torch.float32, device=q.device)
    _attend[(batch, kv_heads, splits)](
        part, top, total, q, k_cache, v_cache, sinks, kv_indptr, kv_indices, last_page_len, window_left, sm_scale, kv_heads,
        GROUP=group, WIDTH=width, PAGE=page, SPLITS=splits, BLOCK_H=max(16, triton.next_power_of_2(group)), BLOCK_D=block_d,
        BLOCK_T=block_t, num_warps=4, num_stages=3,
    )
    if splits > 1:
        _merge[(batch * heads,)](out, part, top, total, WIDTH=width, SPLITS=splits, BLOCK_D=block_d, num_warps=4)
