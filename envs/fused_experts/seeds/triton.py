import torch
import triton
import triton.language as tl


@triton.jit
def _sort_pairs(ids, order, starts, pairs, CHUNK: tl.constexpr):
    # One program per expert: count the pairs of lower experts, then list its own, in token order.
    expert = tl.program_id(0)
    lower = tl.zeros((CHUNK,), tl.int32)
    for first in range(0, pairs, CHUNK):
        i = first + tl.arange(0, CHUNK)
        lower += (tl.load(ids + i, mask=i < pairs, other=2147483647) < expert).to(tl.int32)
    position = tl.sum(lower, 0)
    tl.store(starts + expert, position)
    for first in range(0, pairs, CHUNK):
        i = first + tl.arange(0, CHUNK)
        own = (tl.load(ids + i, mask=i < pairs, other=2147483647) == expert).to(tl.int32)
        tl.store(order + position + tl.cumsum(own, 0) - 1, i, mask=own > 0)
        position += tl.sum(own, 0)
    if expert == tl.num_programs(0) - 1:
        tl.store(starts + expert + 1, position)


@triton.jit
def _locate(starts, experts, tiles, BLOCK_M: tl.constexpr, EXPERTS: tl.constexpr):
    # Maps a program to (expert, first slot, end of the expert's slots, column tile); the expert is -1 where there is no work.
    e = tl.arange(0, EXPERTS)
    start = tl.load(starts + e, mask=e < experts, other=0)
    count = tl.load(starts + e + 1, mask=e < experts, other=0) - start
    last = tl.cumsum((count + BLOCK_M - 1) // BLOCK_M, 0)
    block = tl.program_id(0) // tiles
    done = (last <= block) & (e < experts)
    expert = tl.sum(done.to(tl.int32), 0)
    earlier = tl.max(tl.where(done, last, 0), 0)
    chosen = e == expert
    first = tl.sum(tl.where(chosen, start, 0), 0) + (block - earlier) * BLOCK_M
    end = tl.sum(tl.where(chosen, start + count, 0), 0)
    return tl.where(expert < experts, expert, -1).to(tl.int64), first, end, tl.program_id(0) % tiles


@triton.jit
def _gate_up(
    hidden, x, w13, order, starts, experts, width, inner, top_k,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, EXPERTS: tl.constexpr,
):
    expert, first, end, tile = _locate(starts, experts, tl.cdiv(inner, BLOCK_N), BLOCK_M, EXPERTS)
    if expert < 0:
        return
    slot = first + tl.arange(0, BLOCK_M)
    live = slot < end
    token = tl.load(order + slot, mask=live, other=0).to(tl.int64) // top_k
    n = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    rows = x + token[:, None] * width + k[None, :]
    gates = w13 + expert * 2 * inner * width + n[None, :].to(tl.int64) * width + k[:, None]
    gate = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    up = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, width, BLOCK_K):
        inside = k < width - start
        mask = (n < inner)[None, :] & inside[:, None]
        left = tl.load(rows + start, mask=live[:, None] & inside[None, :], other=0.0)
        gate = tl.dot(left, tl.load(gates + start, mask=mask, other=0.0), gate, input_precision="ieee")
        up = tl.dot(left, tl.load(gates + inner * width + start, mask=mask, other=0.0), up, input_precision="ieee")
    value = gate / (1.0 + tl.exp(-gate)) * up
    target = hidden + slot[:, None].to(tl.int64) * inner + n[None, :]
    tl.store(target, value.to(hidden.dtype.element_ty), mask=live[:, None] & (n < inner)[None, :])


@triton.jit
def _down(
    result, hidden, w2, topk_weights, order, starts, experts, width, inner,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, EXPERTS: tl.constexpr,
):
    expert, first, end, tile = _locate(starts, experts, tl.cdiv(width, BLOCK_N), BLOCK_M, EXPERTS)
    if expert < 0:
        return
    slot = first + tl.arange(0, BLOCK_M)
    live = slot < end
    pair = tl.load(order + slot, mask=live, other=0).to(tl.int64)
    n = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    rows = hidden + slot[:, None].to(tl.int64) * inner + k[None, :]
    weight = w2 + expert * width * inner + n[None, :].to(tl.int64) * inner + k[:, None]
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, inner, BLOCK_K):
        inside = k < inner - start
        left = tl.load(rows + start, mask=live[:, None] & inside[None, :], other=0.0)
        right = tl.load(weight + start, mask=(n < width)[None, :] & inside[:, None], other=0.0)
        total = tl.dot(left, right, total, input_precision="ieee")
    total *= tl.load(topk_weights + pair, mask=live, other=0.0)[:, None]
    tl.store(result + pair[:, None] * width + n[None, :], total, mask=live[:, None] & (n < width)[None, :])


@triton.jit
def _sum_experts(out, result, width, top_k, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for j in range(top_k):
        total += tl.load(result + (token * top_k + j) * width + h, mask=h < width, other=0.0)
    tl.store(out + token * width + h, total.to(out.dtype.element_ty), mask=h < width)


def fused_experts(out, hidden_states, w13, w2, topk_weights, topk_ids):
    tokens, top_k = topk_ids.shape
    experts, width, inner = w2.shape
    pairs = tokens * top_k
    if pairs == 0:
        return
    device = out.device
    order = torch.empty(pairs, dtype=torch.int32, device=device)
    starts = torch.empty(experts + 1, dtype=torch.int32, device=device)
    hidden = torch.empty(pairs, inner, dtype=out.dtype, device=device)
    result = torch.empty(pairs, width, dtype=torch.float32, device=device)
    _sort_pairs[(experts,)](topk_ids, order, starts, pairs, CHUNK=1024)

    wide = out.dtype == torch.float32
    if pairs <= 16 * experts:
        block_m, block_n, block_k, warps, stages = 16, 64, 32 if wide else 128, 4, 3
    else:
        block_m, block_n, block_k, warps, stages = 64, 64, 32 if wide else 64, 4, 3
    # An upper bound on the number of row blocks, so that the host need not know the routing.
    blocks = min(pairs, experts + pairs // block_m)
    tile = {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k, "EXPERTS": triton.next_power_of_2(experts)}
    options = {"num_warps": warps, "num_stages": stages}
    _gate_up[(blocks * triton.cdiv(inner, block_n),)](
        hidden, hidden_states, w13, order, starts, experts, width, inner, top_k, **tile, **options
    )
    _down[(blocks * triton.cdiv(width, block_n),)](
        result, hidden, w2, topk_weights, order, starts, experts, width, inner, **tile, **options
    )
    _sum_experts[(tokens, triton.cdiv(width, 1024))](out, result, width, top_k, BLOCK=1024)
