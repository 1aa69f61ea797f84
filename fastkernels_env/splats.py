"""What tasks of Gaussian splatting share: lists of Gaussians by tile, their blending in float64, distance from what would be undecided.

Such a task has the sizes C cameras, ``per`` Gaussians and ``list`` entries a tile, and calls its arguments as gsplat does: ``means2d``,
``conics``, ``opacities``, ``isect_offsets``, ``flatten_ids``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch

from .attention import tensor
from .types import Regime

if TYPE_CHECKING:
    from .recipes import Draw
    from .task import Value

SIDE = 16
"""Of a tile, in pixels."""
LEAST = 1 / 255
"""Opacity below which a Gaussian is skipped."""
MOST = 0.999
"""What an opacity is capped at."""
LEFT = 1e-4
"""Share of the light at which a pixel stops."""
_APART = (3e-5, 3e-4)
"""How far (relative) opacities stay from `LEAST`, and what is left of the light from `LEFT`. Float32 errs by a tenth of that: of an
opacity by a few roundings, of one minus an opacity by up to a thousand times as much."""
_PAIRS = {"cpu": 1 << 15, "cuda": 1 << 24}
"""Pairs of a pixel and a Gaussian that are held at once: what stays in a core's cache, or what keeps a GPU busy."""


class Part(NamedTuple):
    """Some tiles: their numbers ``[t]``, their lists ``[t, l]``, and of every pixel ``[t, l, 256]``, the opacity of each
    Gaussian before it is skipped or capped (0 where there is none), what is left of the light behind it, and its share.
    """

    tiles: torch.Tensor
    ids: torch.Tensor
    opacity: torch.Tensor
    left: torch.Tensor
    weight: torch.Tensor


def parts(args: Mapping[str, Value], dtype: torch.dtype = torch.float64) -> Iterator[Part]:
    """All tiles, a few at a time."""
    (_, rows, columns), ids = tensor(args, "isect_offsets").shape, tensor(args, "flatten_ids").long()
    starts = tensor(args, "isect_offsets").flatten().long()
    lengths = torch.cat([starts[1:], starts.new_tensor([len(ids)])])[: len(starts)] - starts
    splats = torch.cat([tensor(args, "means2d"), tensor(args, "conics"), tensor(args, "opacities")[..., None]], -1).to(dtype).flatten(0, 1)
    pixel = torch.arange(SIDE**2, device=ids.device)
    order = lengths.argsort()  # those of like lengths together
    while len(order):
        step = max(_PAIRS[ids.device.type] // (SIDE**2 * max(int(lengths[order[-1]]), 1)), 1)
        tiles, order = order[-step:], order[:-step]
        position = torch.arange(int(lengths[tiles].max()), device=ids.device)
        there = position < lengths[tiles, None]
        own = ids[(starts[tiles, None] + position).clamp_max(len(ids) - 1)]
        u, v, a, b, c, opacity = splats[own][..., None].unbind(2)
        dx = u - ((tiles % columns * SIDE)[:, None] + pixel % SIDE + 0.5)[:, None]
        dy = v - ((tiles // columns % rows * SIDE)[:, None] + pixel // SIDE + 0.5)[:, None]
        distance = (a * dx**2 + c * dy**2) / 2 + b * dx * dy
        opacity = torch.where(there[..., None] & (distance >= 0), opacity * (-distance).exp(), 0.0)
        shown = torch.where(opacity >= LEAST, opacity.clamp_max(MOST), 0.0)
        left = (1 - shown).cumprod(1)
        yield Part(tiles, own, opacity, left, torch.where(left > LEFT, shown * left / (1 - shown), 0.0))


def untiled(tiles: torch.Tensor, args: Mapping[str, Value]) -> torch.Tensor:
    """Images ``[C, H, W, D]`` of tiles ``[C * h * w, 256, D]``, without what reaches beyond them."""
    (cameras, rows, columns), channels = tensor(args, "isect_offsets").shape, tiles.shape[-1]
    image = tiles.view(cameras, rows, columns, SIDE, SIDE, channels).transpose(2, 3).reshape(cameras, rows * SIDE, columns * SIDE, channels)
    return image[:, : int(args["image_height"]), : int(args["image_width"])]


def undecided(args: Mapping[str, Value]) -> torch.Tensor:
    """Which Gaussians (bool ``[C * N]``) some pixel sees so near to a bound that roundings could decide."""
    near = torch.zeros(tensor(args, "opacities").numel(), dtype=torch.bool, device=tensor(args, "opacities").device)
    for part in parts(args, torch.float32):  # many times as near as what it looks for
        close = ((part.opacity / LEAST - 1).abs() < _APART[0]) | (((part.left / LEFT - 1).abs() < _APART[1]) & (part.opacity >= LEAST))
        near[part.ids[close.any(2)]] = True
    return near


def tile_lists(sizes: Mapping[str, int], draw: Draw) -> tuple[torch.Tensor, torch.Tensor]:
    """Start of every list (int32 ``[C * h * w]``), and what it holds (int32 ``[I]``): Gaussians of a tile and of its neighbours, by depth.

    All cameras have the same lengths, each in an order of its own; some lists are empty. In the `SKEWED` regime most is in one.
    """
    cameras, rows, columns, per, total = sizes["C"], sizes["h"], sizes["w"], sizes["per"], sizes["list"] * sizes["h"] * sizes["w"]
    shares = torch.randn(rows * columns, generator=draw.shared, dtype=torch.float64).mul_(0 if draw.regime is Regime.NORMAL else 0.8).exp_()
    if draw.regime is not Regime.NORMAL:
        shares[1::7] = 0.0
    shares[0] += 3 * float(shares.sum()) if draw.regime is Regime.SKEWED else 0.0
    lengths = (shares.cumsum(0) * (total / float(shares.sum()))).round().long().diff(prepend=torch.tensor([0]))
    starts, ids = [], []
    for camera in range(cameras):
        own = lengths[draw.permutation(len(lengths))]
        tile = torch.arange(len(own)).repeat_interleave(own)
        shift = torch.randint(-1, 2, (2, total), generator=draw.host) * (torch.rand(total, generator=draw.host) < 0.6)
        near = (tile // columns + shift[0]).clamp(0, rows - 1) * columns + (tile % columns + shift[1]).clamp(0, columns - 1)
        listed = near * per + torch.randint(per, (total,), generator=draw.host)
        depth = torch.rand(rows * columns * per, generator=draw.host, dtype=torch.float64)
        starts.append(own.cumsum(0) - own + camera * total)
        ids.append(listed[(tile + depth[listed]).argsort()] + camera * rows * columns * per)
    none = torch.zeros(0, dtype=torch.int64)
    return torch.cat([none, *starts]).int(), torch.cat([none, *ids]).int()
