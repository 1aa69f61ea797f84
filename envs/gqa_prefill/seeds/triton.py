import triton
import triton.language as tl


@triton.jit
def _attend(
    out, lse, q, starts, k_cache, v_cache, indptr, indices, last_page, scale, batch, kv_heads,
    CAUSAL: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr, PAGE: tl.constexpr,
    BATCH: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):
    # One program per key-value head and block of rows; a row is a query token and one of the heads that share the key-value head.
    # Which sequence a block belongs to follows from the numbers of blocks of those before it. Late blocks see most keys: they go first.
    block = tl.num_programs(1) - 1 - tl.program_id(1)
    head = tl.program_id(0)
    s = tl.arange(0, BATCH)
    queries = tl.load(starts + s + 1, mask=s < batch, other=0) - tl.load(starts + s, mask=s < batch, other=0)
    blocks = (queries * GROUP + BLOCK_M - 1) // BLOCK_M
    ends = tl.cumsum(blocks, 0)
    b = tl.sum((ends <= block).to(tl.int32), 0)
    if b < batch:
        before = tl.sum(tl.where(s < b, blocks, 0), 0)
        begin = tl.load(starts + b)
        count = tl.load(starts + b + 1) - begin
        first_page = tl.load(indptr + b)
        length = (tl.load(indptr + b + 1) - first_page - 1) * PAGE + tl.load(last_page + b)

        m = (block - before) * BLOCK_M + tl.arange(0, BLOCK_M)
        n = tl.arange(0, BLOCK_N)
        d = tl.arange(0, BLOCK_D)
        row = ((begin + m // GROUP) * kv_heads + head).to(tl.int64) * GROUP + m % GROUP
        there = m < count * GROUP
        inside = there[:, None] & (d < WIDTH)[None, :]
        query = tl.load(q + row[:, None] * WIDTH + d[None, :], mask=inside, other=0.0)
        if CAUSAL:
            limit = length - count + m // GROUP + 1
            last = tl.minimum(((block - before + 1) * BLOCK_M - 1) // GROUP, count - 1)
            end = length - count + last + 1
        else:
            limit = tl.zeros((BLOCK_M,), tl.int32) + length
            end = length
        highest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
        weight = tl.zeros((BLOCK_M,), tl.float32)
        result = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
        for start in range(0, end, BLOCK_N):
            t = start + n
            page = tl.load(indices + first_page + t // PAGE, mask=t < end, other=0).to(tl.int64)
            offset = ((page * PAGE + t % PAGE) * kv_heads + head) * WIDTH
            live = (t < end)[:, None] & (d < WIDTH)[None, :]
            keys = tl.load(k_cache + offset[:, None] + d[None, :], mask=live, other=0.0)
            score = tl.dot(query, tl.trans(keys), input_precision="ieee") * (scale * 1.4426950408889634)
            score = tl.where(t[None, :] < tl.minimum(limit, end)[:, None], score, float("-inf"))
            above = tl.maximum(highest, tl.max(score, 1))  # every row sees the first block, so that this is a number
            shrink = tl.exp2(highest - above)
            odds = tl.exp2(score - above[:, None])
            weight = weight * shrink + tl.sum(odds, 1)
            values = tl.load(v_cache + offset[:, None] + d[None, :], mask=live, other=0.0)
            result = tl.dot(odds.to(values.dtype), values, result * shrink[:, None], input_precision="ieee")
            highest = above
        tl.store(out + row[:, None] * WIDTH + d[None, :], (result / weight[:, None]).to(out.dtype.element_ty), mask=inside)
        tl.store(lse + row, highest + tl.log2(weight), mask=there)


def gqa_prefill(out, lse, q, qo_indptr, k_cache, v_cache, kv_indptr, kv_indices, last_page_len, causal, sm_scale):
    tokens, heads, width = q.shape
    page, kv_heads = k_cache.shape[1:3]
    batch = last_page_len.shape[0]
    if tokens == 0:
        return
    group, block_d, wide = heads // kv_heads, max(16, triton.next_power_of_2(width)), q.element_size() > 2
    # Long blocks reuse keys and values more often; few queries a sequence (drafts) would leave most rows of them empty.
    block_m = 64 if wide or block_d > 128 or tokens * group <= 64 * batch else 128
    block_n = 32 if wide or block_d > 128 else 64
    sequences = 1  # counted up by comparisons: bits of a size that is a symbol keep Dynamo from tracing
    while sequences < batch:
        sequences *= 2
    # Rounding up adds at most one block for each sequence. Blocks past the last find no sequence.
    _attend[(kv_heads, tokens * group // block_m + batch)](
        out, lse, q, qo_indptr, k_cache, v_cache, kv_indptr, kv_indices, last_page_len, sm_scale, batch, kv_heads,
        CAUSAL=bool(causal), GROUP=group, WIDTH=width, PAGE=page, BATCH=sequences,
        BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_D=block_d,
        num_warps=8 if block_m * block_d > 8192 else 4, num_stages=3 if block_d <= 128 else 2,
    )
