import torch
import triton
import triton.language as tl


@triton.jit
def _attend(
    part, top, total, q_nope, q_pe, cache, indptr, indices, last_page, scale, heads,
    LATENT: tl.constexpr, ROTATED: tl.constexpr, PAGE: tl.constexpr, SPLITS: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_T: tl.constexpr,
):
    # One program per sequence, block of heads and share of the sequence; shares are whole blocks of tokens. Heads of a sequence are
    # neighbours, so that the rows they share stay in the second cache.
    b = tl.program_id(1)
    split = tl.program_id(2)
    first_page = tl.load(indptr + b)
    length = (tl.load(indptr + b + 1) - first_page - 1) * PAGE + tl.load(last_page + b)
    share = tl.cdiv(tl.cdiv(length, BLOCK_T), SPLITS) * BLOCK_T
    begin = split * share
    end = tl.minimum(begin + share, length)

    h = tl.program_id(0) * BLOCK_H + tl.arange(0, BLOCK_H)
    c = tl.arange(0, BLOCK_C)
    r = tl.arange(0, BLOCK_R)
    head = b.to(tl.int64) * heads + h
    inside = (h < heads)[:, None] & (c < LATENT)[None, :]
    nope = tl.load(q_nope + head[:, None] * LATENT + c[None, :], mask=inside, other=0.0)
    turned = tl.load(q_pe + head[:, None] * ROTATED + r[None, :], mask=(h < heads)[:, None] & (r < ROTATED)[None, :], other=0.0)
    highest = tl.full((BLOCK_H,), float("-inf"), tl.float32)
    weight = tl.zeros((BLOCK_H,), tl.float32)
    result = tl.zeros((BLOCK_H, BLOCK_C), tl.float32)
    for start in range(begin, end, BLOCK_T):
        t = start + tl.arange(0, BLOCK_T)
        page = tl.load(indices + first_page + t // PAGE, mask=t < end, other=0).to(tl.int64)
        row = cache + (page * PAGE + t % PAGE) * (LATENT + ROTATED)
        latent = tl.load(row[:, None] + c[None, :], mask=(t < end)[:, None] & (c < LATENT)[None, :], other=0.0)
        keys = tl.load(row[:, None] + LATENT + r[None, :], mask=(t < end)[:, None] & (r < ROTATED)[None, :], other=0.0)
        score = tl.dot(nope, tl.trans(latent), input_precision="ieee")
        score += tl.dot(turned, tl.trans(keys), input_precision="ieee")
        score = tl.where((t < end)[None, :], score * (scale * 1.4426950408889634), float("-inf"))
        above = tl.maximum(highest, tl.max(score, 1))
        shrink = tl.exp2(highest - above)
        odds = tl.exp2(score - above[:, None])
        weight = weight * shrink + tl.sum(odds, 1)
        result = tl.dot(odds.to(latent.dtype), latent, result * shrink[:, None], input_precision="ieee")
        highest = above
    place = head * SPLITS + split
    tl.store(top + place, highest, mask=h < heads)
    tl.store(total + place, weight, mask=h < heads)
    if begin < end:
        tl.store(part + place[:, None] * LATENT + c[None, :], result, mask=inside)


@triton.jit
def _merge(out, lse, part, top, total, LATENT: tl.constexpr, SPLITS: tl.constexpr, BLOCK_C: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    split = tl.arange(0, SPLITS)
    highest = tl.load(top + row * SPLITS + split)
    above = tl.max(highest, 0)
    factor = tl.exp2(highest - above)
    weight = tl.sum(tl.load(total + row * SPLITS + split) * factor, 0)
    # Shares past the end of a sequence have no part; their factor is zero.
    used = (factor > 0)[:, None] & (c < LATENT)[None, :]
    values = tl.load(part + (row * SPLITS + split)[:, None] * LATENT + c[None, :], mask=used, other=0.0)
    result = tl.sum(values * factor[:, None], 0) / weight
    tl.store(out + row * LATENT + c, result.to(out.dtype.element_ty), mask=c < LATENT)
    if tl.program_id(1) == 0:
        tl.store(lse + row, above + tl.log2(weight))


def mla_decode(out, lse, q_nope, q_pe, kv_cache, kv_indptr, kv_indices, last_page_len, sm_scale):
    batch, heads, latent = q_nope.shape
    rotated, page = q_pe.shape[2], kv_cache.shape[1]
    if batch == 0:
        return
    block_h = 16 if heads <= 16 else 32 if heads <= 32 else 64
    block_t = 32 if q_nope.element_size() == 2 else 16
    blocks = triton.cdiv(heads, block_h)
    # Lengths are on the device, so the number of shares follows the capacity: enough programs to fill a GPU with even one sequence, and
    # no more shares than an average sequence has blocks.
    splits = 1  # counted up by comparisons: quotients of sizes that are symbols keep Dynamo busy for long
    while splits < 64 and splits * batch * block_t < kv_indices.numel() * page and splits * batch * blocks < 512:
        splits *= 2
    part = torch.empty(batch, heads, splits, latent, dtype=torch.float32, device=q_nope.device)
    top, total = torch.empty(2, batch, heads, splits, dtype=torch.float32, device=q_nope.device)
    _attend[(blocks, batch, splits)](
        part, top, total, q_nope, q_pe, kv_cache, kv_indptr, kv_indices, last_page_len, sm_scale, heads,
        LATENT=latent, ROTATED=rotated, PAGE=page, SPLITS=splits, BLOCK_H=block_h, BLOCK_C=max(16, triton.next_power_of_2(latent)),
        BLOCK_R=max(16, triton.next_power_of_2(rotated)), BLOCK_T=block_t, num_warps=8 if block_h == 64 else 4, num_stages=2,
    )
    _merge[(batch * heads, triton.cdiv(latent, 128))](out, lse, part, top, total, LATENT=latent, SPLITS=splits, BLOCK_C=128, num_warps=4)
