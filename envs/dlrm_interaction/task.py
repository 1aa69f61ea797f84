"""Pairwise feature interaction of DLRM: all dot products between the dense feature and the pooled embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from ...task import Baseline, Cost, Input, Output, Task, Workload

if TYPE_CHECKING:
    from ...recipes import Draw
    from ...task import Range, Value


class DlrmInteraction(Task):
    """Dot products of all pairs of a sample's vectors, behind its dense vector."""

    entry = "dlrm_interaction"
    summary = "For every sample, write its dense vector and the dot products of all pairs among that and its embeddings."
    semantics = (
        "With v[0] = dense[b] and v[1 + f] = sparse[b, f], n = F + 1 vectors of D elements: out[b, :D] = dense[b], and out[b, D + p] = "
        "dot(v[i], v[j]) for the p-th pair i < j in the order (0, 1), (0, 2), ..., (0, n - 1), (1, 2), ... Accumulate in float32 or "
        "better, without TF32, and round once. All tensors are contiguous; rows of out need not be aligned."
    )
    mirrors = "torchrec.models.dlrm.InteractionArch.forward"
    level = "L2"
    category = "recsys"
    architectures = ("dlrm_v2",)
    signature = (
        Output("out", "B", "D+(F+1)*F//2"),
        Input("dense", "B", "D"),
        Input("sparse", "B", "F", "D"),
    )
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", compile=True),
    )
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"B": (1, 150)}, "cuda": {"B": (1, 5000)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"F": 8, "D": 48}, {"F": 13, "D": 80}, {"D": 24}),
        "cuda": ({"F": 8, "D": 48}, {"F": 13, "D": 80}, {"D": 16}, {"F": 40, "D": 32}),
    }
    batch = "B"
    independent_rows = True

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        batch, count, width = (workload.sizes[name] for name in ("B", "F", "D"))
        dtype = getattr(torch, workload.dtype)
        return {
            "dense": draw.vary_rows(draw.activation((batch, width), dtype), 10.0, 1e-2),
            "sparse": draw.vary_rows(draw.activation((batch, count, width), dtype), 4.0, 0.1),
        }

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        dense, sparse = (torch.as_tensor(args[name]).double() for name in ("dense", "sparse"))
        vectors = torch.cat((dense[:, None], sparse), 1)
        first, second = torch.triu_indices(vectors.shape[1], vectors.shape[1], 1, device=dense.device)
        return {"out": torch.cat((dense, (vectors @ vectors.transpose(1, 2))[:, first, second]), 1)}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        batch, count, width = (workload.sizes[name] for name in ("B", "F", "D"))
        pairs = (count + 1) * count // 2
        moved = batch * ((count + 1) * width + width + pairs)
        return Cost(bytes=moved * getattr(torch, workload.dtype).itemsize, flops=2 * batch * pairs * width)


TASK = DlrmInteraction()
