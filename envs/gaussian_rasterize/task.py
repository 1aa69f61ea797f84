"""The rasteriser of 3-D Gaussian splatting: projected Gaussians blended front to back, tile by tile."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from ...attention import tensor
from ...rearrange import Rearrangement, Rows
from ...splats import SIDE, parts, tile_lists, undecided, untiled
from ...task import Baseline, Cost, Input, Output, Scalar, Task, Workload
from ...types import Regime

if TYPE_CHECKING:
    from ...rearrange import Entries
    from ...recipes import Draw
    from ...task import Range, Value


class GaussianRasterize(Task):
    """Colours and coverage of every pixel from the depth-sorted list of its tile."""

    entry = "gaussian_rasterize"
    summary = "Blend projected 3-D Gaussians into images, front to back, from a depth-sorted list for every tile of 16 x 16 pixels."
    semantics = (
        "C cameras have N Gaussians each; number g < C * N is Gaussian g % N of camera g // N. Camera c's image has h * w tiles of 16 x 16 "
        "pixels in rows of w; those at its edges may reach beyond it. The list of tile (r, q) is flatten_ids from isect_offsets[c, r, q] "
        "up to the next tile's offset (row by row, camera by camera; up to I for the very last), nearest first; it may be empty, and a "
        "Gaussian may occur twice. For pixel (y, x) of the tile start with T = 1 and go through the list. For Gaussian g with (u, v) = "
        "means2d, (a, b, c) = conics and o = opacities: dx = u - (x + 0.5), dy = v - (y + 0.5), s = (a * dx^2 + c * dy^2) / 2 + b * dx * "
        "dy, p = min(0.999, o * exp(-s)). If s < 0 or p < 1/255 skip it. If T * (1 - p) <= 1e-4 stop: it and all behind it add nothing. "
        "Else add p * T * colors to render_colors[c, y, x] and multiply T by 1 - p. render_alphas[c, y, x] = 1 - T. The inputs keep p and "
        "T far enough from their bounds that float32 decides as exact arithmetic does. Conics need not be positive definite. C may be "
        "zero. All tensors are contiguous."
    )
    mirrors = "gsplat.rasterize_to_pixels (tile_size=16, no backgrounds, no masks, packed=False)"
    level = "L1"
    category = "3d_robotics"
    architectures = ("3dgs",)
    signature = (
        Output("render_colors", "C", "H", "W", "D"),
        Output("render_alphas", "C", "H", "W", 1),
        Input("means2d", "C", "N", 2, doc="column, then row, in pixels"),
        Input("conics", "C", "N", 3, doc="upper triangle of the inverse covariance"),
        Input("colors", "C", "N", "D"),
        Input("opacities", "C", "N"),
        Input("isect_offsets", "C", "h", "w", dtype="int32", doc="never falls"),
        Input("flatten_ids", "I", dtype="int32"),
        Scalar("image_width", "int", doc="W"),
        Scalar("image_height", "int", doc="H"),
    )
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", devices=("cuda",), compile=True),
        Baseline(name="gsplat", file="gsplat.py", devices=("cuda",), requires="gsplat"),
    )
    regimes = (Regime.REALISTIC, Regime.SKEWED, Regime.EMPTY)
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {
        "cpu": {"C": (1, 3), "H": (1, 60), "W": (1, 80), "per": (1, 20), "list": (1, 30)},
        "cuda": {"C": (1, 4), "H": (1, 800), "W": (1, 1200), "per": (1, 60), "list": (1, 200)},
    }
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = dict.fromkeys(("cpu", "cuda"), ({"D": 4}, {"D": 1}, {"D": 9}))
    batch = "C"

    def complete(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Rows h and columns w of tiles; ``per`` Gaussians and ``list`` entries a tile make N of a camera, and I of all cameras."""
        rows, columns = -(-sizes["H"] // SIDE), -(-sizes["W"] // SIDE)
        own = {"h": rows, "w": columns, "N": sizes["per"] * rows * columns, "I": sizes["C"] * sizes["list"] * rows * columns}
        return {**sizes, **own}

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        cameras, count, rows, columns, per = (workload.sizes[name] for name in ("C", "N", "h", "w", "per"))

        def uniform(*shape: int) -> torch.Tensor:
            return torch.rand(cameras, count, *shape, generator=draw.generator, device=draw.device)

        home = torch.arange(count, device=draw.device) // per
        means = torch.stack([home % columns, home // columns], -1) * SIDE + uniform(2) * (SIDE + 8) - 4
        means = torch.where(uniform(1) < 1 / 8, means.floor() + 0.5, means)  # some lie on the middle of a pixel: no distance at all
        wide = uniform() < 1 / 16  # opaque backgrounds, some pixels of which are capped
        spread = draw.normal((cameras, count, 2), torch.float32, 0.5).exp_().mul_(torch.where(wide, 50.0, 4.0)[..., None])
        first, second = (spread.square() + 0.3).reciprocal().unbind(-1)
        cos, sin = (turn := uniform() * torch.pi).cos(), turn.sin()
        shape = [first * cos**2 + second * sin**2, (first - second) * cos * sin, first * sin**2 + second * cos**2]
        sign = torch.where(uniform() < (0.0 if draw.regime is Regime.NORMAL else 1 / 24), -1.0, 1.0)  # what degenerates is skipped
        opacity = torch.where(wide, 1.0, draw.normal((cameras, count), torch.float32, 2.0).sigmoid_() * 0.99)
        offsets, ids = tile_lists(workload.sizes, draw)
        args: dict[str, Value] = {
            "means2d": means, "conics": torch.stack(shape, -1) * sign[..., None], "colors": uniform(workload.sizes["D"]) * 1.2 + 0.02,
            "opacities": opacity, "isect_offsets": offsets.view(cameras, rows, columns).to(draw.device),
            "flatten_ids": ids.to(draw.device), "image_width": workload.sizes["W"], "image_height": workload.sizes["H"],
        }  # fmt: skip
        while bool((near := undecided(args)).any()):
            opacity.mul_(torch.where(near.view(opacity.shape), 1 - uniform() * 0.1, 1.0))
        return args

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """Cameras dealt out anew, their Gaussians renumbered, their colours times a sign and a power of two."""
        cameras, count = workload.sizes["C"], workload.sizes["N"]
        camera, order = entries.rows(cameras), entries.permutations(count)
        place, factor = torch.arange(cameras, device=order.device), entries.signs(cameras) * entries.powers(cameras)
        splats = Rows((camera[:, :, None] * count + order[:, None]).flatten(1))
        offsets, ids = (entries.stacks[name].long() for name in ("isect_offsets", "flatten_ids"))
        listed = ids.shape[1] // cameras
        offsets = offsets.flatten(0, 1)[camera] + ((place - camera % cameras) * listed)[:, :, None, None]
        ids = ids.view(-1, listed)[camera] - (camera % cameras * count)[:, :, None]
        ids = order.argsort(1).gather(1, ids.flatten(1)) + (place * count).repeat_interleave(listed)
        return Rearrangement(
            {
                **dict.fromkeys(("means2d", "conics", "opacities"), splats), "isect_offsets": offsets.int(), "flatten_ids": ids.int(),
                "colors": Rows(splats.source, factor.repeat_interleave(count, 1)),
            },
            {"render_colors": Rows(camera, factor), "render_alphas": Rows(camera)},
        )

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        colors = tensor(args, "colors").double().flatten(0, 1)
        known = torch.cat([colors, torch.ones_like(colors[:, :1])], 1)
        image = known.new_zeros(tensor(args, "isect_offsets").numel(), SIDE**2, known.shape[1])
        for part in parts(args):
            image[part.tiles] = part.weight.transpose(1, 2) @ known[part.ids]
        image = untiled(image, args)
        return {"render_colors": image[..., :-1].contiguous(), "render_alphas": image[..., -1:].contiguous()}

    def groups(self, args: Mapping[str, Value]) -> dict[str, dict[str, torch.Tensor]]:
        camera = torch.arange(len(tensor(args, "isect_offsets"))).repeat_interleave(int(args["image_height"]) * int(args["image_width"]))
        return {"render_colors": {"camera": camera}, "render_alphas": {"camera": camera}}

    def perturbed(self, args: Mapping[str, Value], rng: random.Random) -> dict[str, dict[str, Value]]:
        """The two nearest of the longest list exchanged."""
        starts, ids = tensor(args, "isect_offsets").flatten().long(), tensor(args, "flatten_ids").clone()
        if not len(ids):
            return {}
        first = int(starts[int(torch.cat([starts[1:], starts.new_tensor([len(ids)])]).sub(starts).argmax())])
        ids[first : first + 2] = ids[first : first + 2].flip(0)
        return {"the order of a list": {**args, "flatten_ids": ids}}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        """Of the Gaussians those that are listed, of the pairs those that show."""
        cameras, high, wide, channels, listed = (workload.sizes[name] for name in ("C", "H", "W", "D", "I"))
        read = int(tensor(args, "flatten_ids").bincount().count_nonzero()) * (6 + channels) + tensor(args, "isect_offsets").numel() + listed
        shown = sum(int((part.weight > 0).sum()) for part in parts(args))
        return Cost(bytes=4 * (read + cameras * high * wide * (channels + 1)), flops=(12 + 2 * channels) * shown)


TASK = GaussianRasterize()
