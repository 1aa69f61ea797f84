"""Attention of V-JEPA2's video encoder: rotary positions by frame, row and column, then dense attention."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from ...attention import attend, tensor
from ...rearrange import Rearrangement, Rows
from ...task import Baseline, Cost, Input, Metadata, Output, Scalar, Task, Workload
from ...types import Regime

if TYPE_CHECKING:
    from ...rearrange import Entries
    from ...recipes import Draw
    from ...task import Range, Value

NAMES = ("q", "k", "v")


class Rope3dAttention(Task):
    """A third of every head turns with the frame, a third with the row, a third with the column of its patch."""

    entry = "rope3d_attention"
    summary = "Rotate query and key by the frame, row and column of each token's patch, then attend to all tokens of the clip."
    semantics = (
        "With p = position_ids[b, t] and g = grid_size the token's patch is frame p // g^2, row p % g^2 // g, column p % g. With "
        "n = d // 6, part a = 0, 1, 2 of every query and key head are its 2n channels from 2n * a on, and u is the patch's frame, row or "
        "column. In a part, channels 2i and 2i + 1 (i < n) are a pair (x, y), but each of them has an angle of its own: channel c has "
        "angle A(c) = u * 10000^(-(c % n) / n). The pair becomes x * cos(A(2i)) - y * sin(A(2i)), y * cos(A(2i + 1)) + x * sin(A(2i + 1)). "
        "Channels from 6n on stay. With the results q' and k': out[b, t, h] = sum over s of softmax(scale * dot(q'[b, t, h], "
        "k'[b, s, h])) over s, times v[b, s, h]. Ids may come in any order and leave patches out. Angles and sums in float32 or better, "
        "without TF32; q', k' and the softmax's numerators may be rounded to the tensors' dtype before the products. Round the output "
        "once. B may be zero. All tensors are contiguous."
    )
    mirrors = "transformers VJEPA2RopeAttention.forward, between its projections"
    level = "L2"
    category = "world"
    architectures = ("v_jepa2",)
    signature = (
        Output("out", "B", "T", "H", "d"),
        Input("q", "B", "T", "H", "d"),
        Input("k", "B", "T", "H", "d"),
        Input("v", "B", "T", "H", "d"),
        Metadata("position_ids", "B", "T", dtype="int64", doc="Patch of every token, row by row and frame by frame."),
        Scalar("grid_size", "int", doc="Rows, and columns, of a frame."),
        Scalar("scale", "float", doc="Scale of the scores."),
    )
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", compile=True),
    )
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"B": (1, 3), "T": (1, 260)}, "cuda": {"B": (1, 4), "T": (1, 5000)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"H": 5, "d": 80}, {"H": 6, "d": 32}, {"H": 3, "d": 48}),
        "cuda": ({"H": 16, "d": 80}, {"H": 12, "d": 32}, {"H": 5, "d": 48}, {"H": 11, "d": 128}),
    }
    batch = "B"

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        """Values of every argument.

        ``workload.params``: ``grid``, rows of a frame; ``depth``, frames; ``runs``, 0 for all patches in order, 1 for those that a mask
        keeps, 2 for those and the masked ones behind them, as the predictor has them.
        """
        shape = tuple(workload.sizes[name] for name in ("B", "T", "H", "d"))
        dtype, grid = getattr(torch, workload.dtype), int(workload.params["grid"])
        values: dict[str, Value] = {}
        for name in NAMES:
            drawn = draw.activation(shape, dtype)
            # Query and key are rounded after the rotation: products of outliers would be scores that are off by tenths.
            values[name] = draw.vary_rows(drawn if name == "v" else drawn.clamp_(-4, 4), 2.0, 1e-2)
            if name == "k" and dtype is torch.float32 and draw.regime is not Regime.NORMAL:
                drawn[:, :, 0] *= 12  # a sharp head, where a softmax without its maximum overflows
        # The scale is not the obvious one, so that a kernel that derives it from d fails.
        factor = 1.0 if draw.regime is Regime.NORMAL else 0.7 + 0.2 * float(torch.rand((), generator=draw.host))
        return {
            **values, "position_ids": _positions(draw, shape[0], shape[1], workload.params).to(draw.device), "grid_size": grid,
            "scale": factor / math.sqrt(shape[-1]),
        }

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """Clips dealt out anew, their heads in another order; query and key of a head with one sign, its value with another and a power."""
        clips, tokens, heads = (workload.sizes[name] for name in ("B", "T", "H"))
        clip, device = entries.rows(clips), entries.order.device
        token = torch.arange(tokens, device=device)[:, None]
        source = (clip[:, :, None, None] * tokens + token) * heads + entries.permutations(heads)[:, None, None]
        score, value = entries.signs(clips * heads), entries.signs(clips * heads) * entries.powers(clips * heads)
        scored, valued = (
            Rows(source.flatten(1), factor.view(-1, clips, 1, heads).repeat(1, 1, tokens, 1).flatten(1)) for factor in (score, value)
        )
        return Rearrangement({"q": scored, "k": scored, "v": valued, "position_ids": Rows(clip)}, {"out": valued})

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        ids, grid, v = tensor(args, "position_ids"), int(args["grid_size"]), tensor(args, "v")
        q, k = (_rotated(tensor(args, name).double(), ids, grid) for name in ("q", "k"))
        out = torch.zeros(v.shape, dtype=torch.float64, device=v.device)
        for target, query, keys, values in zip(out, q, k, v, strict=True):
            target.copy_(attend(query, keys, values, float(args["scale"]))[0])
        return {"out": out}

    def groups(self, args: Mapping[str, Value]) -> dict[str, dict[str, torch.Tensor]]:
        clips, tokens, heads, _ = tensor(args, "q").shape
        clip = torch.arange(clips).repeat_interleave(tokens * heads)
        return {"out": {"head": torch.arange(heads).repeat(clips * tokens), "clip": clip}}

    def perturbed(self, args: Mapping[str, Value], rng: random.Random) -> dict[str, dict[str, Value]]:
        """The patches of all clips in reverse order."""
        ids = tensor(args, "position_ids")
        return {"the patches": {**args, "position_ids": ids.flip(1)}} if ids.shape[1] > 1 else {}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        clips, tokens, heads, width = (workload.sizes[name] for name in ("B", "T", "H", "d"))
        elements = clips * tokens * heads * width
        return Cost(bytes=4 * elements * getattr(torch, workload.dtype).itemsize + 8 * clips * tokens, flops=4 * elements * tokens)


def _positions(draw: Draw, clips: int, tokens: int, params: Mapping[str, float]) -> torch.Tensor:
    patches, runs = int(params["grid"] ** 2 * params["depth"]), int(params["runs"])
    if not runs:
        return torch.arange(tokens).repeat(clips, 1)
    ids = torch.empty(clips, tokens, dtype=torch.int64)
    for clip in ids:
        chosen = torch.randperm(patches, generator=draw.host)[:tokens]
        clip.copy_(torch.cat([part.sort().values for part in chosen.chunk(runs)]))
    return ids


def _rotated(x: torch.Tensor, ids: torch.Tensor, grid: int) -> torch.Tensor:
    """Heads ``[B, T, H, d]`` (float64), turned as `semantics` says."""
    count = x.shape[-1] // 6
    channel = torch.arange(2 * count, device=x.device)
    rate = 10000.0 ** (-(channel % count).double() / count)
    places = torch.stack((ids // grid**2, ids % grid**2 // grid, ids % grid), -1)
    angle = (places[..., None] * rate).flatten(-2).unsqueeze(2)
    turning, rest = x[..., : 6 * count], x[..., 6 * count :]
    crossed = torch.stack((-turning[..., 1::2], turning[..., ::2]), -1).flatten(-2)
    return torch.cat((turning * angle.cos() + crossed * angle.sin(), rest), -1)


TASK = Rope3dAttention()
