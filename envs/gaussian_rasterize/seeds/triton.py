import triton
import triton.language as tl


@triton.jit
def raster_kernel(
    render_colors, render_alphas, means, conics, colors, opacities, offsets, ids, tiles, rows, columns, listed, width, height,
    CHANNELS: tl.constexpr, BLOCK_C: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    # One program a tile: some Gaussians of its list by all of its 256 pixels at a time.
    tile = tl.program_id(0)
    pixel = tl.arange(0, 256)
    x, y = tile % columns * 16 + pixel % 16, tile // columns % rows * 16 + pixel // 16
    first = tl.load(offsets + tile)
    last = tl.load(offsets + tile + 1, mask=tile + 1 < tiles, other=listed)
    channel = tl.arange(0, BLOCK_C)
    total = tl.zeros((256, BLOCK_C), tl.float32)
    shown = tl.zeros((256,), tl.float32)
    light = tl.full((256,), 1.0, tl.float32)  # what is left of it, also behind the Gaussian at which a pixel stops
    while (first < last) & (tl.max(light, 0) > 1e-4):
        k = first + tl.arange(0, AT_ONCE)
        g = tl.load(ids + k, mask=k < last, other=0).to(tl.int64)
        dx = tl.load(means + 2 * g)[None, :] - (x.to(tl.float32) + 0.5)[:, None]
        dy = tl.load(means + 2 * g + 1)[None, :] - (y.to(tl.float32) + 0.5)[:, None]
        a, b, c = tl.load(conics + 3 * g), tl.load(conics + 3 * g + 1), tl.load(conics + 3 * g + 2)
        s = 0.5 * (a[None, :] * dx * dx + c[None, :] * dy * dy) + b[None, :] * dx * dy
        opacity = tl.load(opacities + g, mask=k < last, other=0.0)
        alpha = tl.minimum(opacity[None, :] * tl.exp(-s), 0.999)
        alpha = tl.where((s >= 0.0) & (alpha >= 1.0 / 255.0), alpha, 0.0)
        behind = light[:, None] * tl.cumprod(1.0 - alpha, 1)
        weight = tl.where(behind > 1e-4, alpha * behind / (1.0 - alpha), 0.0)
        color = tl.load(colors + g[:, None] * CHANNELS + channel[None, :], mask=(channel < CHANNELS)[None, :], other=0.0)
        total = tl.dot(weight, color, total, input_precision="ieee")
        shown += tl.sum(weight, 1)
        light = tl.min(behind, 1)
        first += AT_ONCE
    inside = (x < width) & (y < height)
    at = (tile // (rows * columns)).to(tl.int64) * height * width + y * width + x
    target = render_colors + at[:, None] * CHANNELS + channel[None, :]
    tl.store(target, total, mask=inside[:, None] & (channel < CHANNELS)[None, :])
    tl.store(render_alphas + at, shown, mask=inside)


def gaussian_rasterize(
    render_colors, render_alphas, means2d, conics, colors, opacities, isect_offsets, flatten_ids, image_width, image_height
):
    cameras, rows, columns = isect_offsets.shape
    tiles, channels = cameras * rows * columns, colors.shape[2]
    if tiles:
        raster_kernel[(tiles,)](
            render_colors, render_alphas, means2d, conics, colors, opacities, isect_offsets, flatten_ids, tiles, rows, columns,
            flatten_ids.shape[0], image_width, image_height, CHANNELS=channels, BLOCK_C=max(16, triton.next_power_of_2(channels)),
            AT_ONCE=16, num_warps=4,
        )  # fmt: skip
