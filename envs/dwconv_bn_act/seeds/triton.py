import triton
import triton.language as tl


@triton.jit
def _dwconv(
    out, x, weight, bias, pixels, height, width, channels, out_height, out_width, stride, padding,
    KERNEL: tl.constexpr, ACTIVATION: tl.constexpr, PIXELS: tl.constexpr, BLOCK: tl.constexpr,
):
    # Neighbouring programs have the same pixels and other channels; the taps of neighbouring pixels meet in the first-level cache.
    tiles = tl.cdiv(channels, BLOCK)
    pixel = tl.program_id(0) // tiles * PIXELS + tl.arange(0, PIXELS)
    c = tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)
    image = (pixel // (out_height * out_width)).to(tl.int64)
    top = pixel // out_width % out_height * stride - padding
    left = pixel % out_width * stride - padding
    origin = x + (((image * height + top) * width + left) * channels)[:, None] + c[None, :]
    there = (pixel < pixels)[:, None] & (c < channels)[None, :]
    sums = tl.zeros((PIXELS, BLOCK), tl.float32) + tl.load(bias + c, mask=c < channels, other=0.0).to(tl.float32)[None, :]
    for row in range(KERNEL):
        for column in tl.static_range(KERNEL):
            inside = (top + row >= 0) & (top + row < height) & (left + column >= 0) & (left + column < width)
            w = tl.load(weight + c * (KERNEL * KERNEL) + row * KERNEL + column, mask=c < channels, other=0.0).to(tl.float32)
            values = tl.load(origin + (row * width + column) * channels, mask=there & inside[:, None], other=0.0)
            sums += values.to(tl.float32) * w[None, :]
    if ACTIVATION == 2:
        sums = sums * tl.sigmoid(sums)
    elif ACTIVATION == 1:
        sums = tl.maximum(sums, 0.0)
    tl.store(out + pixel.to(tl.int64)[:, None] * channels + c[None, :], sums.to(out.dtype.element_ty), mask=there)


def dwconv_bn_act(out, input, weight, bias, stride, padding, activation):
    images, out_height, out_width, channels = out.shape
    height, width = input.shape[1:3]
    pixels = images * out_height * out_width
    if pixels:
        # 128 channels are 256 bytes of a pixel; 64 pixels share their taps and give each of 256 threads 32 sums.
        grid = (triton.cdiv(pixels, 64) * triton.cdiv(channels, 128),)
        _dwconv[grid](
            out, input, weight, bias, pixels, height, width, channels, out_height, out_width, stride, padding,
            KERNEL=weight.shape[1], ACTIVATION=activation, PIXELS=64, BLOCK=128, num_warps=8,
        )
