import torch
import triton
import triton.language as tl


@triton.jit
def _conv(
    out, x, weight, bias, pixels, height, width, channels, out_height, out_width, filters, stride, padding,
    KERNEL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):
    # An implicit GEMM: rows are pixels, columns filters, and the depth goes through taps and, within, channels.
    tiles = tl.cdiv(filters, BLOCK_N)
    pixel = tl.program_id(0) // tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(0) % tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    image = (pixel // (out_height * out_width)).to(tl.int64)
    top = pixel // out_width % out_height * stride - padding
    left = pixel % out_width * stride - padding
    origin = ((image * height + top) * width + left) * channels
    filter_ = n.to(tl.int64) * (KERNEL * KERNEL * channels)
    chunks = tl.cdiv(channels, BLOCK_K)
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(0, KERNEL * KERNEL * chunks):
        tap = step // chunks
        row, column = tap // KERNEL, tap % KERNEL
        c = (step - tap * chunks) * BLOCK_K + tl.arange(0, BLOCK_K)
        inside = (top + row >= 0) & (top + row < height) & (left + column >= 0) & (left + column < width) & (pixel < pixels)
        place = origin + (row * width + column) * channels
        a = tl.load(x + place[:, None] + c[None, :], mask=inside[:, None] & (c < channels)[None, :], other=0.0)
        b = tl.load(
            weight + filter_[None, :] + (tap * channels + c)[:, None], mask=(n < filters)[None, :] & (c < channels)[:, None], other=0.0
        )
        sums = tl.dot(a, b, sums, input_precision="ieee")
    sums += tl.load(bias + n, mask=n < filters, other=0.0).to(tl.float32)[None, :]
    where = pixel.to(tl.int64)[:, None] * filters + n[None, :]
    tl.store(out + where, sums.to(out.dtype.element_ty), mask=(pixel < pixels)[:, None] & (n < filters)[None, :])


def conv2d_nhwc(out, input, weight, bias, stride, padding):
    images, out_height, out_width, filters = out.shape
    height, width, channels = input.shape[1:]
    pixels = images * out_height * out_width
    if not pixels:
        return
    # Large tiles where the filters fill them; one narrow column of tiles where there are few.
    block_n = 128 if filters > 64 and out.dtype != torch.float32 else 64 if filters > 32 else 32 if filters > 16 else 16
    block_k = 64 if channels > 32 else 32 if channels > 16 else 16
    grid = (triton.cdiv(pixels, 128) * triton.cdiv(filters, block_n),)
    _conv[grid](
        out, input, weight, bias, pixels, height, width, channels, out_height, out_width, filters, stride, padding,
        KERNEL=weight.shape[1], BLOCK_M=128, BLOCK_N=block_n, BLOCK_K=block_k,
        num_warps=8 if block_n == 128 else 4, num_stages=2 if out.dtype == torch.float32 else 3,
    )
