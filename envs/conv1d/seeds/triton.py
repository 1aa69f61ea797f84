import torch
import triton
import triton.language as tl


@triton.jit
def _conv(
    out, x, weight, bias, channels, length, filters, out_length, stride, padding, dilation, tiles, strips,
    KERNEL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):
    # An implicit GEMM for every sequence and group: rows are filters, columns places, the depth goes through channels and, within, taps.
    # Programs with the same places follow each other.
    program = tl.program_id(0)
    strip = program // tiles
    part = (strip // strips).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    o = program % tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    place = strip % strips * BLOCK_N + tl.arange(0, BLOCK_N)
    left = place * stride - padding
    depth = channels * KERNEL
    row = (tl.program_id(1) * filters + o).to(tl.int64)
    source = x + part * channels * length
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for first in range(0, depth, BLOCK_K):
        d = first + tl.arange(0, BLOCK_K)
        at = left[None, :] + (d % KERNEL * dilation)[:, None]
        inside = (at >= 0) & (at < length) & (d < depth)[:, None]
        w = tl.load(weight + row[:, None] * depth + d[None, :], mask=(o < filters)[:, None] & (d < depth)[None, :], other=0.0)
        seen = tl.load(source + (d // KERNEL).to(tl.int64)[:, None] * length + at, mask=inside, other=0.0)
        sums = tl.dot(w, seen, sums, input_precision="ieee")
    sums += tl.load(bias + row, mask=o < filters, other=0.0).to(tl.float32)[:, None]
    where = (part * filters + o)[:, None] * out_length + place[None, :]
    tl.store(out + where, sums.to(out.dtype.element_ty), mask=(o < filters)[:, None] & (place < out_length)[None, :])


def conv1d(out, input, weight, bias, stride, padding, dilation, groups):
    batch, all_filters, out_length = out.shape
    channels, kernel = weight.shape[1:]
    if not batch:
        return
    filters = all_filters // groups
    block_m = min(max(triton.next_power_of_2(filters), 16), 64 if out.dtype == torch.float32 else 128)
    block_n = 128 if out_length > 64 else 64
    block_k = 64 if channels * kernel > 32 else 32 if channels * kernel > 16 else 16
    tiles, strips = triton.cdiv(filters, block_m), triton.cdiv(out_length, block_n)
    _conv[(batch * strips * tiles, groups)](
        out, input, weight, bias, channels, input.shape[2], filters, out_length, stride, padding, dilation, tiles, strips,
        KERNEL=kernel, BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_K=block_k,
        num_warps=8 if block_m == 128 else 4, num_stages=2 if out.dtype == torch.float32 else 3,
    )
