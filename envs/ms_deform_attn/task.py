"""Multi-scale deformable attention: every query reads a few points of several feature maps, between pixels."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from ...rearrange import Rearrangement, Rows
from ...task import Baseline, Cost, Input, Metadata, Output, Task, Workload
from ...types import Regime

if TYPE_CHECKING:
    from ...rearrange import Entries
    from ...recipes import Draw
    from ...task import Range, Value

LEVELS = ("p0", "p1", "p2", "p3")


class MsDeformAttn(Task):
    """Weighted sums of bilinearly interpolated values at given places of several levels."""

    entry = "ms_deform_attn"
    summary = "For every query and head, sum the weighted values at given points of several feature maps, bilinearly interpolated."
    semantics = (
        "Level l < L is a map of H rows and W columns, H = value_spatial_shapes[l, 0] and W = value_spatial_shapes[l, 1]; value[b] holds "
        "the levels one after another, row by row, S pixels in all. The P points of a query are sorted by level: num_points_list[l] of "
        "them lie in level l. With (u, v) = sampling_locations[b, q, m, p], x = u * W - 0.5, y = v * H - 0.5, i = floor(y), j = floor(x): "
        "out[b, q, m * d + e] = sum over p of attention_weights[b, q, m, p] * sum over the four pixels (r, c) in {i, i + 1} x {j, j + 1} "
        "of (1 - |y - r|) * (1 - |x - c|) * value[b, pixel (r, c) of the level, m, e]; pixels outside of the map count as zeros. u and v "
        "may lie outside of [0, 1]; the weights of a query need not add up to one. Maps need not be square; they are small enough that "
        "single precision suffices for x and y. B may be zero. Accumulate in float32 or better and round once. All tensors are "
        "contiguous."
    )
    mirrors = (
        "transformers.models.rt_detr_v2.modeling_rt_detr_v2.multi_scale_deformable_attention_v2 (method default) under autocast, "
        "MultiScaleDeformableAttention.ms_deform_attn_forward"
    )
    level = "L1"
    category = "edge"
    architectures = ("rtdetr_v2", "deformable_detr", "d_fine", "grounding_dino", "mask2former")
    signature = (
        Output("out", "B", "Q", "h*d"),
        Input("value", "B", "S", "h", "d"),
        Metadata("value_spatial_shapes", "L", 2, dtype="int64", doc="Rows and columns of each level."),
        Input("sampling_locations", "B", "Q", "h", "P", 2, dtype="float32", doc="Column, then row, as a share of the map."),
        Input("attention_weights", "B", "Q", "h", "P", dtype="float32"),
        Metadata("num_points_list", "L", dtype="int64", doc="Points of each level."),
    )
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", compile=True),
        Baseline(name="triton_tuned", file="triton_tuned.py", devices=("cuda",), requires="triton"),
    )
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {
        "cpu": {"B": (1, 3), "Q": (1, 200), "H": (5, 33), "W": (5, 33)},
        "cuda": {"B": (1, 12), "Q": (1, 3000), "H": (5, 130), "W": (5, 130)},
    }
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        device: ({"p0": 3, "p1": 6, "p2": 3, "p3": 0}, {"h": 6, "d": 40}, {"h": 4, "d": 64, "p0": 5, "p1": 2, "p2": 1, "p3": 1}, {"d": 24})
        for device in ("cpu", "cuda")
    }
    batch = "B"

    def complete(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Levels L, each half as high and wide as the one before it, their pixels S, and points P of a query, p0 to p3 by level."""
        points = [sizes[name] for name in LEVELS if sizes[name]]
        return {**sizes, "L": len(points), "P": sum(points), "S": sum(high * wide for high, wide in _maps(sizes, len(points)))}

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        batch, queries, heads, width, pixels, points = (workload.sizes[name] for name in ("B", "Q", "h", "d", "S", "P"))
        dtype, listed = getattr(torch, workload.dtype), [workload.sizes[name] for name in LEVELS if workload.sizes[name]]
        shape = (batch, queries, heads, points)
        # Boxes all over the image, some beyond its edges; points lie about their box, most of them inside.
        centre = torch.rand((batch, queries, 1, 1, 2), generator=draw.generator, device=draw.device)
        size = torch.rand((batch, queries, 1, 1, 2), generator=draw.generator, device=draw.device).square_().mul_(0.5)
        spread = 0.1 if draw.regime is Regime.NORMAL else 0.5
        logits = draw.normal(shape, torch.float32, 1.0 if draw.regime is Regime.NORMAL else 2.0)
        return {
            "value": draw.vary_rows(draw.activation((batch, pixels, heads, width), dtype), 4.0, 0.1),
            "value_spatial_shapes": torch.tensor(_maps(workload.sizes, len(listed)), device=draw.device),
            "sampling_locations": draw.normal((*shape, 2), torch.float32, spread).mul_(size).add_(centre),
            "attention_weights": logits.softmax(-1),
            "num_points_list": torch.tensor(listed, device=draw.device),
        }

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """Images dealt out anew, the queries of each in another order, their weights times a sign and a power of two."""
        batch, queries = workload.sizes["B"], workload.sizes["Q"]
        image, order = entries.rows(batch), entries.permutations(queries)
        query = (image[:, :, None] * queries + order[:, None]).flatten(1)
        factor = entries.signs(batch * queries) * entries.powers(batch * queries)
        scaled, whole = Rows(query, factor), Rows(entries.whole())
        return Rearrangement(
            {
                "value": Rows(image), "sampling_locations": Rows(query), "attention_weights": scaled,
                "value_spatial_shapes": whole, "num_points_list": whole,
            },
            {"out": scaled},
        )

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        value, weights = torch.as_tensor(args["value"]), torch.as_tensor(args["attention_weights"]).double()
        batch, queries, heads, _ = weights.shape
        out = torch.zeros(batch * queries * heads, value.shape[3], dtype=torch.float64, device=value.device)
        if batch:
            row, share = (part.view(len(out), -1) for part in _corners(args))
            weight = weights.view(len(out), -1).repeat_interleave(4, dim=1) * share
            out = torch.nn.functional.embedding_bag(row, value.flatten(0, 2).double(), per_sample_weights=weight, mode="sum")
        return {"out": out.view(batch, queries, heads * value.shape[3])}

    def groups(self, args: Mapping[str, Value]) -> dict[str, dict[str, torch.Tensor]]:
        batch, queries, heads, _ = torch.as_tensor(args["attention_weights"]).shape
        return {"out": {"head": torch.arange(heads).repeat(batch * queries), "image": torch.arange(batch).repeat_interleave(queries)}}

    def perturbed(self, args: Mapping[str, Value], rng: random.Random) -> dict[str, dict[str, Value]]:
        """One point moves to the next level; the maps are transposed."""
        shapes, points = torch.as_tensor(args["value_spatial_shapes"]), torch.as_tensor(args["num_points_list"]).clone()
        found: dict[str, dict[str, Value]] = {}
        if len(points) > 1:
            points[0], points[1] = points[0] - 1, points[1] + 1
            found["the points of the levels"] = {**args, "num_points_list": points}
        if bool((shapes[:, 0] != shapes[:, 1]).any()):
            found["rows and columns of the maps"] = {**args, "value_spatial_shapes": shapes.flip(1)}
        return found

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        """Of the values only those that some point touches are read."""
        batch, queries, heads, width, points = (workload.sizes[name] for name in ("B", "Q", "h", "d", "P"))
        row, share = _corners(args)
        touched = torch.zeros(batch * workload.sizes["S"] * heads, dtype=torch.bool, device=row.device)
        touched[row[share > 0]] = True
        elements = int(touched.sum()) * width + batch * queries * heads * width
        moved = elements * getattr(torch, workload.dtype).itemsize + 12 * batch * queries * heads * points
        return Cost(bytes=moved, flops=2 * int((share > 0).sum()) * width)


def _maps(sizes: Mapping[str, int], levels: int) -> list[tuple[int, int]]:
    """Rows and columns of each level."""
    return [(-(-sizes["H"] // 2**level), -(-sizes["W"] // 2**level)) for level in range(levels)]


def _corners(args: Mapping[str, Value]) -> tuple[torch.Tensor, torch.Tensor]:
    """The four pixels about each point, ``[B, Q, h, P, 4]``: their rows in `value` (``[B * S * h]``), and their shares."""
    value, places = torch.as_tensor(args["value"]), torch.as_tensor(args["sampling_locations"]).double()
    shapes, points = torch.as_tensor(args["value_spatial_shapes"]), torch.as_tensor(args["num_points_list"])
    area = shapes.prod(1)
    high, wide, start = (of.repeat_interleave(points)[:, None] for of in (*shapes.unbind(1), area.cumsum(0) - area))
    x, y = places[..., :1] * wide - 0.5, places[..., 1:] * high - 0.5
    corner = torch.arange(4, device=places.device)
    row, column = y.floor() + corner // 2, x.floor() + corner % 2
    inside = (row >= 0) & (row < high) & (column >= 0) & (column < wide)
    share = ((1 - (y - row).abs()) * (1 - (x - column).abs())).masked_fill(~inside, 0.0)
    pixel = (start + row * wide + column).masked_fill(~inside, 0.0).long()
    image, head = (torch.arange(count, device=places.device) for count in (value.shape[0], value.shape[2]))
    return (image[:, None, None, None, None] * value.shape[1] + pixel) * value.shape[2] + head[:, None, None], share


TASK = MsDeformAttn()
