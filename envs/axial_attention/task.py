"""Axial attention of video world models: over the patches of a frame, or over the frames of a patch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from ...attention import attend, tensor
from ...rearrange import Rearrangement, Rows
from ...task import Baseline, Cost, Input, Output, Scalar, Task, Workload
from ...types import Regime

if TYPE_CHECKING:
    from ...rearrange import Entries
    from ...recipes import Draw
    from ...task import Range, Value

NAMES = ("q", "k", "v")


class AxialAttention(Task):
    """Dense attention along the patches, or causal attention along the frames, of one layout."""

    entry = "axial_attention"
    summary = "Attend among the patches of every frame, or causally among the frames of every patch, without moving the tensors."
    semantics = (
        "All tensors are [B, F, S, H, d]: clips, frames, patches, heads, channels. Spatial (temporal is false): for every b, f and h, "
        "out[b, f, s, h] = sum over all patches r of softmax(scale * dot(q[b, f, s, h], k[b, f, r, h])) over r, times v[b, f, r, h]. "
        "Temporal (temporal is true): for every b, s and h, out[b, f, s, h] = sum over the frames r <= f of "
        "softmax(scale * dot(q[b, f, s, h], k[b, r, s, h])) over those r, times v[b, r, s, h]; a frame never sees later ones. Query and "
        "key hold their rotary embedding already. Accumulate in float32 or better, without TF32, and round once; before the second "
        "product the softmax's numerators may be rounded to the tensors' dtype. B may be zero. All tensors are contiguous."
    )
    mirrors = "open-oasis attention.SpatialAxialAttention and TemporalAxialAttention, from the rotary embedding to the output projection"
    level = "L2"
    category = "world"
    architectures = ("oasis",)
    signature = (
        Output("out", "B", "F", "S", "H", "d"),
        Input("q", "B", "F", "S", "H", "d"),
        Input("k", "B", "F", "S", "H", "d"),
        Input("v", "B", "F", "S", "H", "d"),
        Scalar("temporal", "bool", doc="Over frames, causally; else over the patches of a frame."),
        Scalar("scale", "float", doc="Scale of the scores."),
    )
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", compile=True),
    )
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"B": (1, 3), "F": (1, 36)}, "cuda": {"B": (1, 4), "F": (1, 75)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"S": 77, "H": 3, "d": 80}, {"S": 21, "H": 5, "d": 48}, {"S": 40, "H": 3, "d": 96}),
        "cuda": ({"S": 77, "H": 6, "d": 80}, {"S": 220, "H": 5, "d": 48}, {"S": 260, "H": 12, "d": 128}),
    }
    batch = "B"

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        shape = tuple(workload.sizes[name] for name in ("B", "F", "S", "H", "d"))
        dtype = getattr(torch, workload.dtype)
        values: dict[str, Value] = {name: draw.vary_rows(draw.activation(shape, dtype), 4.0, 1e-2) for name in NAMES}
        # The scale is not the obvious one, so that a kernel that derives it from d fails.
        factor = 1.0 if draw.regime is Regime.NORMAL else 0.7 + 0.2 * float(torch.rand((), generator=draw.host))
        return {**values, "temporal": bool(workload.params["temporal"]), "scale": factor / math.sqrt(shape[-1])}

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """Sequences (heads of frames, or of patches) dealt out anew, query and key with one sign, the value with another and a power."""
        places = _sequences(workload.sizes, bool(workload.params["temporal"])).to(entries.order.device)
        count, length = places.shape
        dealt = entries.rows(count)
        score, value = entries.signs(count), entries.signs(count) * entries.powers(count)

        def spread(by_sequence: torch.Tensor) -> torch.Tensor:
            """``[slots, count, length]`` by sequence to ``[slots, rows]`` by place."""
            flat = by_sequence.flatten(1)
            return torch.empty_like(flat).scatter_(1, places.flatten().expand(len(flat), -1), flat)

        source = spread((dealt // count * (count * length))[:, :, None] + places[dealt % count])
        scored = Rows(source, spread(score[:, :, None].repeat(1, 1, length)))
        valued = Rows(source, spread(value[:, :, None].repeat(1, 1, length)))
        return Rearrangement({"q": scored, "k": scored, "v": valued}, {"out": valued})

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        q, k, v = (tensor(args, name) for name in NAMES)
        out, scale, temporal = torch.zeros(q.shape, dtype=torch.float64, device=q.device), float(args["scale"]), bool(args["temporal"])
        # A clip is one sequence of frames with S * H heads, or F sequences of patches.
        sequences = [x.flatten(2, 3) if temporal else x.flatten(0, 1) for x in (out, q, k, v)]
        for target, query, keys, values in zip(*sequences, strict=True):
            target.copy_(attend(query, keys, values, scale, causal=temporal)[0])
        return {"out": out}

    def groups(self, args: Mapping[str, Value]) -> dict[str, dict[str, torch.Tensor]]:
        clips, frames, patches, heads, _ = tensor(args, "q").shape
        frame = torch.arange(clips * frames).repeat_interleave(patches * heads)
        return {"out": {"head": torch.arange(heads).repeat(clips * frames * patches), "frame": frame}}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        clips, frames, patches, heads, width = (workload.sizes[name] for name in ("B", "F", "S", "H", "d"))
        rows = clips * frames * patches * heads
        seen = rows * (frames + 1) // 2 if workload.params["temporal"] else rows * patches
        return Cost(bytes=4 * rows * width * getattr(torch, workload.dtype).itemsize, flops=4 * seen * width)


def _sequences(sizes: Mapping[str, int], temporal: bool) -> torch.Tensor:
    """Rows of d channels (of all B * F * S * H) that attend to each other: int64 ``[sequences, members]``."""
    shape = [sizes[name] for name in ("B", "F", "S", "H")]
    rows = torch.arange(math.prod(shape)).view(shape)
    return (rows.permute(0, 2, 3, 1) if temporal else rows.permute(0, 1, 3, 2)).flatten(0, 2)


TASK = AxialAttention()
