import triton
import triton.language as tl


@triton.jit
def _attend(
    out, q, k, v, starts, heads, q_stride, k_stride, v_stride, scale,
    WIDTH: tl.constexpr, D: tl.constexpr, REST: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):
    # One program per block of queries, head and sequence. A head size such as 72 is D = 64 channels and REST = 16 more, half of them
    # masked: padding to the next power of two would cost almost twice the work.
    head, sequence = tl.program_id(1), tl.program_id(2)
    begin = tl.load(starts + sequence).to(tl.int64)
    length = (tl.load(starts + sequence + 1) - begin).to(tl.int32)
    first = tl.program_id(0) * BLOCK_M
    if first < length:
        m = first + tl.arange(0, BLOCK_M)
        n = tl.arange(0, BLOCK_N)
        d = tl.arange(0, D)
        row = (begin + m)[:, None]
        there = (m < length)[:, None]
        query = tl.load(q + row * q_stride + head * WIDTH + d[None, :], mask=there, other=0.0)
        result = tl.zeros((BLOCK_M, D), tl.float32)
        if REST > 0:
            e = D + tl.arange(0, REST)
            more_query = tl.load(q + row * q_stride + head * WIDTH + e[None, :], mask=there & (e < WIDTH)[None, :], other=0.0)
            more = tl.zeros((BLOCK_M, REST), tl.float32)
        highest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
        weight = tl.zeros((BLOCK_M,), tl.float32)
        for start in range(0, length, BLOCK_N):
            token = (begin + start + n)[:, None]
            live = (start + n < length)[:, None]
            key_row, value_row = k + token * k_stride + head * WIDTH, v + token * v_stride + head * WIDTH
            keys = tl.load(key_row + d[None, :], mask=live, other=0.0)
            score = tl.dot(query, tl.trans(keys), input_precision="ieee")
            if REST > 0:
                more_keys = tl.load(key_row + e[None, :], mask=live & (e < WIDTH)[None, :], other=0.0)
                score = tl.dot(more_query, tl.trans(more_keys), score, input_precision="ieee")
            score = tl.where((start + n < length)[None, :], score * (scale * 1.4426950408889634), float("-inf"))
            above = tl.maximum(highest, tl.max(score, 1))
            shrink = tl.exp2(highest - above)
            odds = tl.exp2(score - above[:, None])
            weight = weight * shrink + tl.sum(odds, 1)
            values = tl.load(value_row + d[None, :], mask=live, other=0.0)
            result = tl.dot(odds.to(values.dtype), values, result * shrink[:, None], input_precision="ieee")
            if REST > 0:
                more_values = tl.load(value_row + e[None, :], mask=live & (e < WIDTH)[None, :], other=0.0)
                more = tl.dot(odds.to(values.dtype), more_values, more * shrink[:, None], input_precision="ieee")
            highest = above
        place = out + (row * heads + head) * WIDTH
        tl.store(place + d[None, :], (result / weight[:, None]).to(out.dtype.element_ty), mask=there)
        if REST > 0:
            tl.store(place + e[None, :], (more / weight[:, None]).to(out.dtype.element_ty), mask=there & (e < WIDTH)[None, :])


def vit_varlen_attention(out, q, k, v, cu_seqlens, max_seqlen):
    tokens, heads, width = q.shape
    if tokens == 0:
        return
    whole = triton.next_power_of_2(width + 1) // 2  # the largest power of two that is not above the width
    rest = max(16, triton.next_power_of_2(width - whole)) if width > whole else 0
    wide = q.element_size() > 2
    block_m = 64 if wide or max_seqlen <= 64 else 128
    block_n = 32 if wide else 64
    _attend[(triton.cdiv(max_seqlen, block_m), heads, cu_seqlens.shape[0] - 1)](
        out, q, k, v, cu_seqlens, heads, q.stride(0), k.stride(0), v.stride(0), width**-0.5,
        WIDTH=width, D=whole, REST=rest, BLOCK_M=block_m, BLOCK_N=block_n, num_warps=4 if block_m == 64 else 8, num_stages=3,
    )
