"""Pooled embedding lookups in many tables: the sparse half of a recommendation model."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from ...rearrange import Rearrangement, Rows
from ...task import Baseline, Cost, Input, Output, Task, Weight, Workload
from ...types import Regime

if TYPE_CHECKING:
    from ...rearrange import Entries
    from ...recipes import Draw
    from ...task import Range, Value


class EmbeddingBagCollection(Task):
    """Weighted sums of embedding rows, one bag for each sample and table."""

    entry = "embedding_bag_collection"
    summary = "For each sample and table, sum the weighted embedding rows of a bag of ids."
    semantics = (
        "Bags are sorted by table: bag f * B + b holds the ids sparse_indices[i] of sample b in table f, for i from offsets[f * B + b] to "
        "offsets[f * B + b + 1] - 1. out[b, f, e] = sum over these i of weights[i] * tables[f, sparse_indices[i], e]; an empty bag gives "
        "zeros. offsets starts with 0, never falls and ends with N. Ids lie in [0, R) and may repeat, in a bag too; few of them are "
        "frequent, as in production. Bags may be long. Accumulate in float32 or better and round once. All tensors are contiguous."
    )
    mirrors = "torchrec EmbeddingBagCollection (fbgemm split_embedding_codegen_lookup), torch.nn.functional.embedding_bag (mode sum)"
    level = "L1"
    category = "recsys"
    architectures = ("dlrm_v2",)
    signature = (
        Output("out", "B", "F", "D"),
        Input("sparse_indices", "N", dtype="int64"),
        Input("offsets", "F*B+1", dtype="int64"),
        Input("weights", "N", doc="Weight of each id in its bag."),
        Weight("tables", "F", "R", "D"),
    )
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", compile=True),
    )
    regimes = (Regime.REALISTIC, Regime.SKEWED, Regime.EMPTY)
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"B": (1, 20)}, "cuda": {"B": (1, 3000)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"F": 8, "D": 48}, {"F": 13, "D": 80}, {"D": 24}), "cuda": ({"F": 8, "D": 48}, {"F": 13, "D": 80}, {"D": 16}, {"D": 256})
    }
    batch = "B"

    def complete(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Ids N of all bags, ``mean`` of them in a bag."""
        return {**sizes, "N": sizes["B"] * sizes["F"] * sizes["mean"]}

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        tables, rows, width, ids, bags = *(workload.sizes[n] for n in ("F", "R", "D", "N")), workload.sizes["F"] * workload.sizes["B"]
        dtype = getattr(torch, workload.dtype)
        step = 64 if draw.regime is Regime.SKEWED else 1  # then most bags are empty and the others long
        cuts = torch.randint(ids + 1, (max(bags - 1, 0),), generator=draw.shared).sort().values // step * step
        lengths = torch.cat((torch.tensor([0]), cuts, torch.tensor([ids]))).diff()  # geometric, but for the steps
        offsets = torch.zeros(bags + 1, dtype=torch.int64)
        offsets[1:] = lengths[draw.permutation(bags)].cumsum(0)
        uniform = torch.rand(ids, generator=draw.host, dtype=torch.float64)
        popular = (uniform * math.log(rows)).exp().long() - 1  # Zipf's law, exponent 1
        return {
            "sparse_indices": draw.permutation(rows)[popular].to(draw.device),
            "offsets": offsets.to(draw.device),
            "weights": draw.normal((ids,), dtype).abs_().add_(0.1),
            "tables": draw.weight(lambda: draw.normal((tables, rows, width), dtype, 0.1)),
        }

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """The samples of every set in another order, the weights of each times a sign and a power of two."""
        batch, ids = workload.sizes["B"], workload.sizes["N"]
        sets, samples = entries.whole(), entries.permutations(batch)
        bags = torch.arange(workload.sizes["F"], device=sets.device)[:, None] * batch + samples[:, None]
        starts, factor = entries.stacks["offsets"][entries.order], entries.signs(batch) * entries.powers(batch)
        offsets = torch.nn.functional.pad(starts.diff(dim=1).gather(1, bags.flatten(1)).cumsum(1), (1, 0))
        place = torch.arange(ids, device=sets.device).expand(entries.slots, ids).contiguous()
        owner = torch.searchsorted(offsets[:, 1:].contiguous(), place, right=True)
        source = sets * ids + (starts.gather(1, bags.flatten(1)) - offsets[:, :-1]).gather(1, owner) + place
        weights = entries.stacks["weights"].flatten()[source]
        scaled = weights * factor.gather(1, owner % batch).to(weights.dtype)
        moved: dict[str, Rows | torch.Tensor] = {"sparse_indices": Rows(source), "offsets": offsets, "weights": scaled}
        return Rearrangement(moved, {"out": Rows(sets * batch + samples, factor)})

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        tables, weights = torch.as_tensor(args["tables"]), torch.as_tensor(args["weights"])
        rows, bag = _rows(args)
        bags, (count, _, width) = len(torch.as_tensor(args["offsets"])) - 1, tables.shape
        out = torch.zeros(bags, width, dtype=torch.float64, device=tables.device)
        out.index_add_(0, bag, tables.flatten(0, 1)[rows].double() * weights.double()[:, None])
        return {"out": out.view(count, bags // count, width).transpose(0, 1)}

    def unused(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        """Rows of the tables that no id names."""
        tables = torch.as_tensor(args["tables"])
        mask = torch.ones(tables.shape[0] * tables.shape[1], dtype=torch.bool, device=tables.device)
        mask[_rows(args)[0]] = False
        return {"tables": mask.view(*tables.shape[:2], 1)}

    def perturbed(self, args: Mapping[str, Value], rng: random.Random) -> dict[str, dict[str, Value]]:
        """All ids one place further, and the bags' lengths in reverse order."""
        ids, offsets = torch.as_tensor(args["sparse_indices"]), torch.as_tensor(args["offsets"])
        reverse = (offsets[-1] - offsets).flip(0)
        return {"the ids": {**args, "sparse_indices": ids.roll(1)}, "the bags": {**args, "offsets": reverse}}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        sizes, item = workload.sizes, getattr(torch, workload.dtype).itemsize
        distinct = len(_rows(args)[0].unique())  # type: ignore[no-untyped-call]
        bags = sizes["F"] * sizes["B"]
        moved = (distinct + bags) * sizes["D"] * item + sizes["N"] * (8 + item) + 8 * (bags + 1)
        return Cost(bytes=moved, flops=2 * sizes["N"] * sizes["D"])


def _rows(args: Mapping[str, Value]) -> tuple[torch.Tensor, torch.Tensor]:
    """Of every id: its row in all tables laid end to end, and its bag (int64)."""
    offsets, (count, rows, _) = torch.as_tensor(args["offsets"]), torch.as_tensor(args["tables"]).shape
    bag = torch.arange(len(offsets) - 1, device=offsets.device).repeat_interleave(offsets.diff())
    return bag // max((len(offsets) - 1) // count, 1) * rows + torch.as_tensor(args["sparse_indices"]), bag


TASK = EmbeddingBagCollection()
