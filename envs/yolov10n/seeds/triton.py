import triton
import triton.language as tl


@triton.jit
def depthwise_kernel(
    out, input, weight, bias, height, width, channels, rows, columns, stride, SIDE: tl.constexpr, ACTIVATED: tl.constexpr,
    PIXELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(2).to(tl.int64)
    pixels = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    y, x = pixels // columns, pixels % columns
    inside, known = pixels < rows * columns, channel < channels
    sums = tl.zeros([PIXELS, BLOCK], tl.float32) + tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)[None, :]
    for i in tl.static_range(SIDE):
        for j in tl.static_range(SIDE):
            from_y, from_x = y * stride + i - SIDE // 2, x * stride + j - SIDE // 2
            there = inside & (from_y >= 0) & (from_y < height) & (from_x >= 0) & (from_x < width)
            places = ((batch * height + from_y) * width + from_x)[:, None] * channels + channel[None, :]
            values = tl.load(input + places, mask=there[:, None] & known[None, :], other=0.0).to(tl.float32)
            tap = tl.load(weight + (i * SIDE + j) * channels + channel, mask=known, other=0.0).to(tl.float32)
            sums += values * tap[None, :]
    if ACTIVATED:
        sums = sums / (1.0 + tl.exp(-sums))
    targets = (batch * rows * columns + pixels)[:, None] * channels + channel[None, :]
    tl.store(out + targets, sums.to(out.dtype.element_ty), mask=inside[:, None] & known[None, :])


def depthwise_conv(out, input, weight, bias, stride, activated):
    batch, rows, columns, channels = out.shape
    if batch:
        block = min(triton.next_power_of_2(channels), 64)
        grid = (triton.cdiv(rows * columns, 16), triton.cdiv(channels, block), batch)
        depthwise_kernel[grid](
            out, input, weight, bias, input.shape[1], input.shape[2], channels, rows, columns, stride, SIDE=weight.shape[0],
            ACTIVATED=activated, PIXELS=16, BLOCK=block,
        )  # fmt: skip


@triton.jit
def pool_kernel(out, input, height, width, channels, PIXELS: tl.constexpr, BLOCK: tl.constexpr):
    batch = tl.program_id(2).to(tl.int64)
    pixels = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    y, x = pixels // width, pixels % width
    inside, known = pixels < height * width, channel < channels
    most = tl.full([PIXELS, BLOCK], float("-inf"), tl.float32)
    for i in tl.static_range(-2, 3):
        for j in tl.static_range(-2, 3):
            there = inside & (y + i >= 0) & (y + i < height) & (x + j >= 0) & (x + j < width)
            places = ((batch * height + y + i) * width + x + j)[:, None] * channels + channel[None, :]
            values = tl.load(input + places, mask=there[:, None] & known[None, :], other=float("-inf"))
            most = tl.maximum(most, values.to(tl.float32))
    targets = (batch * height * width + pixels)[:, None] * channels + channel[None, :]
    tl.store(out + targets, most.to(out.dtype.element_ty), mask=inside[:, None] & known[None, :])


def max_pool(out, input):
    batch, height, width, channels = input.shape
    if batch:
        block = min(triton.next_power_of_2(channels), 64)
        grid = (triton.cdiv(height * width, 16), triton.cdiv(channels, block), batch)
        pool_kernel[grid](out, input, height, width, channels, PIXELS=16, BLOCK=block)


@triton.jit
def decode_kernel(out, bins, centres, strides, places, cells, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    rows = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = rows < places * 4
    steps = tl.arange(0, COUNT)
    logits = tl.load(bins + rows[:, None] * COUNT + steps[None, :], mask=inside[:, None], other=0.0).to(tl.float32)
    p = tl.exp(logits - tl.max(logits, 1)[:, None])
    distance = tl.sum(p * steps[None, :].to(tl.float32), 1) / tl.sum(p, 1)
    cell, side = (rows // 4) % cells, rows % 4
    centre = tl.load(centres + cell * 2 + side % 2, mask=inside, other=0.0).to(tl.float32)
    scale = tl.load(strides + cell, mask=inside, other=0.0).to(tl.float32)
    moved = tl.where(side < 2, centre - distance, centre + distance) * scale
    tl.store(out + rows, moved.to(out.dtype.element_ty), mask=inside)


def box_decode(out, bins, centres, strides):
    places, cells = bins.shape[0] * bins.shape[1], bins.shape[1]
    if places:
        decode_kernel[(triton.cdiv(places * 4, 128),)](out, bins, centres, strides, places, cells, COUNT=bins.shape[3], BLOCK=128)
