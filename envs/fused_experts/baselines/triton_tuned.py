"""Two grouped GEMMs in the manner of vLLM's fused experts, with tiles picked for one H200.

Written for this project: the production kernels live in packages too large to install beside the library. Routing tables are built
on the device. The intermediate and the results of single experts are kept in the tensors' dtype, as production does.
"""

import torch
import triton
import triton.language as tl

# Up to this many pairs per expert: (rows, gate columns, output columns, depth, warps, stages)
TILES = {8: (16, 64, 128, 128, 4, 3), 24: (32, 64, 128, 128, 4, 3), 48: (64, 64, 128, 64, 4, 4), None: (128, 128, 256, 64, 8, 4)}
SINGLE = (16, 32, 32, 128, 4, 4)


@triton.jit
def _route(ids, order, owner, firsts, ends, pairs, BLOCK_M: tl.constexpr, CHUNK: tl.constexpr):
    # One program per expert lists its pairs and its row blocks. Block numbers start at expert + start // BLOCK_M: that leaves room
    # for every expert's ragged block without knowing the other experts' counts; numbers left over belong to nobody.
    expert = tl.program_id(0)
    lower = tl.zeros((CHUNK,), tl.int32)
    own = tl.zeros((CHUNK,), tl.int32)
    for first in range(0, pairs, CHUNK):
        i = first + tl.arange(0, CHUNK)
        chosen = tl.load(ids + i, mask=i < pairs, other=2147483647)
        lower += (chosen < expert).to(tl.int32)
        own += (chosen == expert).to(tl.int32)
    start = tl.sum(lower, 0)
    end = start + tl.sum(own, 0)
    position = start
    for first in range(0, pairs, CHUNK):
        i = first + tl.arange(0, CHUNK)
        match = (tl.load(ids + i, mask=i < pairs, other=2147483647) == expert).to(tl.int32)
        tl.store(order + position + tl.cumsum(match, 0) - 1, i, mask=match > 0)
        position += tl.sum(match, 0)
    base = expert + start // BLOCK_M
    room = 1 + end // BLOCK_M - start // BLOCK_M
    for done in range(0, room, 64):
        j = done + tl.arange(0, 64)
        first_slot = start + j * BLOCK_M
        tl.store(owner + base + j, tl.where(first_slot < end, expert, -1), mask=j < room)
        tl.store(firsts + base + j, first_slot, mask=j < room)
        tl.store(ends + base + j, end, mask=j < room)


@triton.jit
def _gate_up(
    hidden, x, w13, order, owner, firsts, ends, top_k,
    WIDTH: tl.constexpr, INNER: tl.constexpr, SINGLE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):
    tiles: tl.constexpr = (INNER + BLOCK_N - 1) // BLOCK_N
    block = tl.program_id(0) // tiles
    expert = tl.load(owner + block).to(tl.int64)
    if expert < 0:
        return
    n = tl.program_id(0) % tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    if SINGLE:
        slot = block + tl.arange(0, BLOCK_M)
        live = slot == block
        token = tl.zeros((BLOCK_M,), tl.int64)
    else:
        slot = tl.load(firsts + block) + tl.arange(0, BLOCK_M)
        live = slot < tl.load(ends + block)
        token = tl.load(order + slot, mask=live, other=0).to(tl.int64) // top_k
    # Dead rows and columns past the end read valid addresses; their results are never stored.
    column = n if INNER % BLOCK_N == 0 else n % INNER
    rows = x + token[:, None] * WIDTH + k[None, :]
    weight = w13 + expert * 2 * INNER * WIDTH + column[None, :].to(tl.int64) * WIDTH + k[:, None]
    gate = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    up = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, WIDTH, BLOCK_K):
        if WIDTH % BLOCK_K == 0:
            left = tl.load(rows + start)
            right = tl.load(weight + start)
            other = tl.load(weight + INNER * WIDTH + start)
        else:
            left = tl.load(rows + start, mask=(k < WIDTH - start)[None, :], other=0.0)
            right = tl.load(weight + start, mask=(k < WIDTH - start)[:, None], other=0.0)
            other = tl.load(weight + INNER * WIDTH + start, mask=(k < WIDTH - start)[:, None], other=0.0)
        gate = tl.dot(left, right, gate, input_precision="ieee")
        up = tl.dot(left, other, up, input_precision="ieee")
    value = (gate / (1.0 + tl.exp(-gate)) * up).to(hidden.dtype.element_ty)
    tl.store(hidden + slot[:, None].to(tl.int64) * INNER + n[None, :], value, mask=live[:, None] & (n < INNER)[None, :])


@triton.jit
def _down(
    result, hidden, w2, topk_weights, order, owner, firsts, ends,
    WIDTH: tl.constexpr, INNER: tl.constexpr, SINGLE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):
    tiles: tl.constexpr = (WIDTH + BLOCK_N - 1) // BLOCK_N
    block = tl.program_id(0) // tiles
    expert = tl.load(owner + block).to(tl.int64)
    if expert < 0:
        return
    n = tl.program_id(0) % tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    if SINGLE:
        slot = block + tl.arange(0, BLOCK_M)
        live = slot == block
        pair = slot.to(tl.int64)
    else:
        slot = tl.load(firsts + block) + tl.arange(0, BLOCK_M)
        live = slot < tl.load(ends + block)
        pair = tl.load(order + slot, mask=live, other=0).to(tl.int64)
    column = n if WIDTH % BLOCK_N == 0 else n % WIDTH
    rows = hidden + tl.where(live, slot, 0)[:, None].to(tl.int64) * INNER + k[None, :]
    weight = w2 + expert * WIDTH * INNER + column[None, :].to(tl.int64) * INNER + k[:, None]
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, INNER, BLOCK_K):
        if INNER % BLOCK_K == 0:
            left = tl.load(rows + start)
            right = tl.load(weight + start)
        else:
            left = tl.load(rows + start, mask=(k < INNER - start)[None, :], other=0.0)
            right = tl.load(weight + start, mask=(k < INNER - start)[:, None], other=0.0)
        total = tl.dot(left, right, total, input_precision="ieee")
    total *= tl.load(topk_weights + pair, mask=live, other=0.0)[:, None]
    target = result + pair[:, None] * WIDTH + n[None, :]
    tl.store(target, total.to(result.dtype.element_ty), mask=live[:, None] & (n < WIDTH)[None, :])


@triton.jit
def _sum_experts(out, result, WIDTH: tl.constexpr, TOP_K: tl.constexpr, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for j in tl.static_range(TOP_K):
        total += tl.load(result + (token * TOP_K + j) * WIDTH + h, mask=h < WIDTH, other=0.0).to(tl.float32)
    tl.store(out + token * WIDTH + h, total.to(out.dtype.element_ty), mask=h < WIDTH)


def fused_experts(out, hidden_states, w13, w2, topk_weights, topk_ids):
    tokens, top_k = topk_ids.shape
    experts, width, inner = w2.shape
    pairs = tokens * top_k
    if pairs == 0:
        return
    single = tokens == 1
    tile = SINGLE if single else next(tile for limit, tile in TILES.items() if limit is None or pairs <= limit * experts)
    rows, gate_columns, columns, depth, warps, stages = tile
    if out.dtype == torch.float32:
        gate_columns, columns, depth = min(gate_columns, 64), min(columns, 128), depth // 2
    blocks = pairs if single else experts + pairs // rows
    if single:
        order = owner = firsts = ends = topk_ids
    else:
        # Rows of a multiple of four keep every table aligned to 16 bytes, so that shapes share one compiled kernel.
        length = triton.cdiv(max(pairs, blocks), 4) * 4
        order, owner, firsts, ends = torch.empty(4, length, dtype=torch.int32, device=out.device)
        chunk = min(8192, triton.next_power_of_2(pairs))
        _route[(experts,)](topk_ids, order, owner, firsts, ends, pairs, BLOCK_M=rows, CHUNK=chunk, num_warps=max(4, chunk // 512))
    hidden = torch.empty(pairs, inner, dtype=out.dtype, device=out.device)
    result = torch.empty(pairs, width, dtype=out.dtype, device=out.device)
    shape = {"WIDTH": width, "INNER": inner, "SINGLE": single, "BLOCK_M": rows, "BLOCK_K": depth}
    options = {"num_warps": warps, "num_stages": stages}
    _gate_up[(blocks * triton.cdiv(inner, gate_columns),)](
        hidden, hidden_states, w13, order, owner, firsts, ends, top_k, BLOCK_N=gate_columns, **shape, **options
    )
    _down[(blocks * triton.cdiv(width, columns),)](
        result, hidden, w2, topk_weights, order, owner, firsts, ends, BLOCK_N=columns, **shape, **options
    )
    _sum_experts[(tokens, triton.cdiv(width, 512))](out, result, WIDTH=width, TOP_K=top_k, BLOCK=512)
