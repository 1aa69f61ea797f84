"""Plain torch: all tiles at once, a few Gaussians of every list at a time, until no pixel is left."""

import torch

SIDE, AT_ONCE = 16, 32


def blend(splats, ids, there, x, y, left):
    """What the next Gaussians of every list add to its pixels, and what is left of their light behind them."""
    u, v, a, b, c, opacity = splats[ids][..., :6, None].unbind(2)
    dx, dy = u - x[:, None], v - y[:, None]
    distance = (a * dx**2 + c * dy**2) / 2 + b * dx * dy
    alpha = (opacity * (-distance).exp()).clamp_max(0.999)
    alpha = torch.where(there[..., None] & (distance >= 0) & (alpha >= 1 / 255), alpha, 0)
    behind = left[:, None] * (1 - alpha).cumprod(1)
    before = torch.cat([left[:, None], behind[:, :-1]], 1)
    weight = torch.where(behind > 1e-4, alpha * before, 0)
    return weight.transpose(1, 2) @ splats[ids][..., 6:], weight.sum(1), behind[:, -1]


def gaussian_rasterize(
    render_colors, render_alphas, means2d, conics, colors, opacities, isect_offsets, flatten_ids, image_width, image_height
):
    cameras, rows, columns = isect_offsets.shape
    if cameras == 0:
        return
    splats = torch.cat([means2d, conics, opacities[..., None], colors], -1).flatten(0, 1)
    starts = isect_offsets.flatten()
    lengths = torch.cat([starts[1:], starts.new_full((1,), len(flatten_ids))]) - starts
    pixel, tile = torch.arange(SIDE**2, device=starts.device), torch.arange(len(starts), device=starts.device)
    x = (tile % columns * SIDE)[:, None] + pixel % SIDE + 0.5
    y = (tile // columns % rows * SIDE)[:, None] + pixel // SIDE + 0.5
    image = colors.new_zeros(len(starts), SIDE**2, colors.shape[-1] + 1)
    left = colors.new_ones(len(starts), SIDE**2)
    for first in range(0, int(lengths.max()), AT_ONCE):
        position = torch.arange(first, first + AT_ONCE, device=starts.device)
        ids = flatten_ids[(starts[:, None] + position).clamp_max(len(flatten_ids) - 1)]
        color, shown, left = blend(splats, ids, position < lengths[:, None], x, y, left)
        image[..., :-1] += color
        image[..., -1] += shown
    image = image.view(cameras, rows, columns, SIDE, SIDE, -1).transpose(2, 3).reshape(cameras, rows * SIDE, columns * SIDE, -1)
    render_colors.copy_(image[:, :image_height, :image_width, :-1])
    render_alphas.copy_(image[:, :image_height, :image_width, -1:])
