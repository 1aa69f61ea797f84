"""MaxSim: the late interaction of multi-vector retrieval."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from ...rearrange import Rearrangement, Rows
from ...task import Baseline, Cost, Input, Output, Task, Workload
from ...types import Regime

if TYPE_CHECKING:
    from ...rearrange import Entries
    from ...recipes import Draw
    from ...task import Range, Value

TOPICS = 6


class MaxSim(Task):
    """For every token of a query the best match in a document, summed over the query."""

    entry = "maxsim"
    summary = "Score every document for every query: the sum over query tokens of the largest dot product with a token of the document."
    semantics = (
        "out[i, j] = sum over t of (max over u with doc_mask[j, u] of dot(query_vecs[i, t], doc_vecs[j, u])). All m tokens of a query "
        "count. A document's tokens that count are any, not the first ones: padding is masked, and so is punctuation within; there is at "
        "least one. Vectors whose mask is false have no meaning. The largest dot product may be negative. Accumulate in float32 or better; "
        "dot products may be rounded to the dtype of the vectors, as production does. All tensors are contiguous."
    )
    mirrors = "colbert.modeling.colbert.colbert_score (Q, D_padded, D_mask), pylate.scores.colbert_scores"
    level = "L2"
    category = "recsys"
    architectures = ("colbert_v2",)
    signature = (
        Output("out", "Q", "D"),
        Input("query_vecs", "Q", "m", "d"),
        Input("doc_vecs", "D", "L", "d"),
        Input("doc_mask", "D", "L", dtype="bool"),
    )
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", compile=True),
    )
    regimes = (Regime.REALISTIC, Regime.SKEWED, Regime.EMPTY)
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {
        "cpu": {"D": (1, 80), "L": (1, 200)}, "cuda": {"D": (1, 3000), "L": (1, 300)}
    }
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"Q": 3, "m": 20, "d": 96}, {"Q": 2, "m": 7, "d": 48}, {"m": 37, "d": 64}),
        "cuda": ({"Q": 3, "m": 20, "d": 96}, {"Q": 2, "m": 7, "d": 48}, {"m": 37, "d": 64}),
    }
    batch = "D"

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        queries, tokens, documents, length, width = (workload.sizes[name] for name in ("Q", "m", "D", "L", "d"))
        dtype, params = getattr(torch, workload.dtype), workload.params
        topics = draw.normal((TOPICS, width), torch.float32)
        mask = torch.ones((documents, length), dtype=torch.bool, device=draw.device)
        if draw.regime is not Regime.NORMAL:
            lengths = draw.lengths(documents, params["median"], params["sigma"], 1, length).to(draw.device)
            place = torch.arange(length, device=draw.device)
            mask = (place < lengths[:, None]) & (torch.rand(mask.shape, generator=draw.generator, device=draw.device) > params["skipped"])
            mask[torch.arange(documents, device=draw.device), (lengths - 1) // 2] = True
        return {
            "query_vecs": _embedded(draw, (queries, tokens, width), topics, dtype),
            "doc_vecs": _embedded(draw, (documents, length, width), topics, dtype),
            "doc_mask": mask,
        }

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """Documents, queries and the tokens of queries in another order; a sign that all vectors have in common cancels."""
        queries, tokens, documents = (workload.sizes[name] for name in ("Q", "m", "D"))
        sets, sign = entries.whole(), entries.signs(1)
        query, token, document = (entries.permutations(count) for count in (queries, tokens, documents))
        asked = (sets[..., None] * queries * tokens + query[:, :, None] * tokens + token[:, None]).flatten(1)
        scores = (sets[..., None] * queries * documents + query[:, :, None] * documents + document[:, None]).flatten(1)
        place = sets * documents + document
        moved: dict[str, Rows | torch.Tensor] = {
            "query_vecs": Rows(asked, sign.expand(asked.shape)), "doc_vecs": Rows(place, sign.expand(place.shape)), "doc_mask": Rows(place)
        }
        return Rearrangement(moved, {"out": Rows(scores)})

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        query, documents, mask = (torch.as_tensor(args[name]) for name in ("query_vecs", "doc_vecs", "doc_mask"))
        flat, parts = query.double().flatten(0, 1).T, []
        for vectors, known in zip(torch.split(documents, 512), torch.split(mask, 512), strict=True):  # all at once would take gigabytes
            best = (vectors.double() @ flat).masked_fill_(~known[..., None], -torch.inf).amax(1)
            parts.append(best.view(len(vectors), query.shape[0], query.shape[1]).sum(-1))
        return {"out": torch.cat(parts).T.contiguous()}

    def groups(self, args: Mapping[str, Value]) -> dict[str, dict[str, torch.Tensor]]:
        queries, documents = len(torch.as_tensor(args["query_vecs"])), len(torch.as_tensor(args["doc_vecs"]))
        return {"out": {"document": torch.arange(documents).repeat(queries)}}

    def unused(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        """Vectors of tokens that are masked."""
        return {"doc_vecs": ~torch.as_tensor(args["doc_mask"])[..., None]}

    def perturbed(self, args: Mapping[str, Value], rng: random.Random) -> dict[str, dict[str, Value]]:
        """Every document's tokens count in reverse."""
        return {"the mask": {**args, "doc_mask": torch.as_tensor(args["doc_mask"]).flip(1)}}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        queries, tokens, documents, length, width = (workload.sizes[name] for name in ("Q", "m", "D", "L", "d"))
        known = int(torch.as_tensor(args["doc_mask"]).sum())
        elements = (known + queries * tokens) * width + queries * documents
        item = getattr(torch, workload.dtype).itemsize
        return Cost(bytes=elements * item + documents * length, flops=2 * queries * tokens * known * width)


def _embedded(draw: Draw, shape: tuple[int, int, int], topics: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Unit vectors. Those of a text lean to a topic or away from it, so that the best match of a token may be negative."""
    vectors = draw.activation(shape, torch.float32)
    if draw.regime is not Regime.NORMAL:
        chosen = torch.randint(TOPICS, shape[:1], generator=draw.generator, device=draw.device)
        lean = torch.rand(shape[:1], generator=draw.generator, device=draw.device).mul_(3).sub_(1.5)
        vectors += (lean[:, None] * topics[chosen])[:, None]
    return torch.nn.functional.normalize(vectors, dim=-1).to(dtype)


TASK = MaxSim()
