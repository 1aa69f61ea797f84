"""Reduction over segments of consecutive rows: the pooling of point clouds."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from ...rearrange import Rearrangement, Rows
from ...task import Baseline, Cost, Input, Output, Scalar, Task, Workload
from ...types import Regime

if TYPE_CHECKING:
    from ...rearrange import Entries
    from ...recipes import Draw
    from ...task import Range, Value

REDUCTIONS = ("sum", "mean", "amax")


class SegmentCsr(Task):
    """Sum, mean or maximum of the rows of every segment."""

    entry = "segment_csr"
    summary = "Reduce every segment of consecutive rows to one row: their sum, mean or maximum."
    semantics = (
        "Segment s holds the rows src[p] for p from indptr[s] to indptr[s + 1] - 1. out[s, c] is their sum over p if reduce is 0, their "
        "mean if it is 1, their maximum if it is 2. An empty segment gives zeros, whatever the reduction. indptr starts with 0, never "
        "falls and ends with P; segments may be long. Accumulate in float32 or better and round once. All tensors are contiguous."
    )
    mirrors = "torch_scatter.segment_csr (reduce 0: sum, 1: mean, 2: max), torch.segment_reduce"
    level = "L1"
    category = "3d_robotics"
    architectures = ("ptv3",)
    signature = (
        Output("out", "S", "C"),
        Input("src", "P", "C"),
        Input("indptr", "S+1", dtype="int64"),
        Scalar("reduce", "int", doc="0: sum, 1: mean, 2: maximum."),
    )
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", compile=True),
    )
    regimes = (Regime.REALISTIC, Regime.SKEWED, Regime.EMPTY)
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"P": (1, 2500)}, "cuda": {"P": (1, 100000)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"C": 6}, {"C": 96}, {"C": 192, "mean": 7}), "cuda": ({"C": 6}, {"C": 96}, {"C": 192, "mean": 7}, {"C": 384})
    }
    batch = "P"

    def complete(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Segments S, of ``mean`` rows."""
        return {**sizes, "S": -(-sizes["P"] // sizes["mean"])}

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        points, segments, width = (workload.sizes[name] for name in ("P", "S", "C"))
        dtype = getattr(torch, workload.dtype)
        shares = torch.randn(segments, generator=draw.shared, dtype=torch.float64)
        shares.mul_(3.0 if draw.regime is Regime.SKEWED else 0.7).exp_()  # log-normal lengths
        if draw.regime is Regime.SKEWED:
            shares[:1] += shares.sum()  # one holds more than half of all rows: more than 16 bits count
        ends = shares.cumsum(0)
        ends = (ends / ends[-1:] * points).round().long()
        indptr = torch.zeros(segments + 1, dtype=torch.int64)
        indptr[1:] = ends.diff(prepend=torch.tensor([0]))[draw.permutation(segments)].cumsum(0)
        return {
            "src": draw.vary_rows(draw.activation((points, width), dtype), 4.0, 0.1),
            "indptr": indptr.to(draw.device),
            "reduce": int(workload.params["reduce"]),
        }

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """Segments of equal length exchanged between sets and put in another order, each times a power of two."""
        points, segments = workload.sizes["P"], workload.sizes["S"]
        starts = entries.stacks["indptr"]
        by_length = starts.diff(dim=1).argsort(dim=1, stable=True)  # the sets have the same lengths, in their own order
        ranks = torch.where(entries.kept[:, None], by_length.argsort(1)[entries.order], entries.permutations(segments))
        sets = entries.sets(segments).gather(1, ranks)
        chosen, factor = by_length[sets, ranks], entries.powers(segments)
        indptr = torch.nn.functional.pad(starts.diff(dim=1)[sets, chosen].cumsum(1), (1, 0))
        place = torch.arange(points, device=sets.device).expand(entries.slots, points).contiguous()
        owner = torch.searchsorted(indptr[:, 1:].contiguous(), place, right=True)
        source = (sets * points + starts[sets, chosen] - indptr[:, :-1]).gather(1, owner) + place
        moved: dict[str, Rows | torch.Tensor] = {"src": Rows(source, factor.gather(1, owner)), "indptr": indptr}
        return Rearrangement(moved, {"out": Rows(sets * segments + chosen, factor)})

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        src, indptr = torch.as_tensor(args["src"]), torch.as_tensor(args["indptr"])
        segment = torch.arange(len(indptr) - 1, device=src.device).repeat_interleave(indptr.diff())
        out = torch.zeros(len(indptr) - 1, src.shape[1], dtype=torch.float64, device=src.device)
        index, reduce = segment[:, None].expand(src.shape), REDUCTIONS[int(args["reduce"])]
        return {"out": out.scatter_reduce(0, index, src.double(), reduce, include_self=False)}

    def perturbed(self, args: Mapping[str, Value], rng: random.Random) -> dict[str, dict[str, Value]]:
        """The lengths of the segments in reverse order."""
        indptr = torch.as_tensor(args["indptr"])
        return {"the segments": {**args, "indptr": (indptr[-1] - indptr).flip(0)}}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        points, segments, width = (workload.sizes[name] for name in ("P", "S", "C"))
        item = getattr(torch, workload.dtype).itemsize
        return Cost(bytes=(points + segments) * width * item + 8 * (segments + 1), flops=points * width)


TASK = SegmentCsr()
