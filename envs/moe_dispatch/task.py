"""Dispatch of expert parallelism: every token goes to the ranks that own its experts, and arrives there grouped by expert."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from ...ranked import Comm, RankedTask, at_rank, join, tensor
from ...rearrange import Rearrangement, Rows
from ...task import Baseline, Cost, Gate, Input, Numerics, Output, Scalar, Workload
from ...types import Regime

if TYPE_CHECKING:
    from ...rearrange import Entries
    from ...recipes import Draw
    from ...task import Range, Value

N6 = Numerics(
    name="N6",
    gates={"float16": Gate(0.0, 0.0), "bfloat16": Gate(0.0, 0.0), "float32": Gate(0.0, 0.0), "float64": Gate(0.0, 0.0)},
    rms_floor={"float16": 0.0, "bfloat16": 0.0, "float32": 0.0, "float64": 0.0},
)
"""Exact: rows are copied, and their order is given."""


class MoeDispatch(RankedTask):
    """Sends the rows of all ranks to the owners of their experts."""

    entry = "moe_dispatch"
    summary = "Send every token to the ranks that own its experts, where the rows arrive grouped by expert."
    semantics = (
        "There are num_experts experts; with R ranks, rank r owns the num_experts / R of them from r * num_experts / R on. Each rank has T "
        "tokens of its own; topk_ids[t] names the K distinct experts of token t. Every pair of a token and one of its experts makes one "
        "row on the rank that owns the expert: a copy of input[t]. On each rank these rows stand in recv by local expert in ascending "
        "order, and within an expert by source rank, then by token. recv_source[i] = source rank * T + t says where row i comes from; "
        "expert_offsets[j] is the first row of local expert j, and its last element the number of rows received. Shapes are static: recv "
        "has room for all pairs of all ranks, and from the number of rows received on, recv is zero and recv_source is -1; write that "
        "too. Rows are copied bit for bit. Any expert may have no row, a rank may receive nothing or everything, and T may be zero: then "
        "expert_offsets is all zeros. All tensors are contiguous."
    )
    mirrors = "torch.ops.symm_mem.all_to_all_vdev_2d, flashinfer.comm.moe_a2a_dispatch, deep_ep.Buffer.dispatch"
    level = "L2"
    category = "llm"
    architectures = ("qwen3_moe", "qwen3_next", "deepseek_v3", "mixtral")
    ranks = 2
    signature = (
        Output("recv", "2*T*K", "H", doc="rows received, then zeros"),
        Output("recv_source", "2*T*K", dtype="int32", doc="source rank * T + token of each row, then -1"),
        Output("expert_offsets", "E//2+1", dtype="int32", doc="first row of each local expert, then the number of rows received"),
        Input("input", "T", "H", doc="this rank's tokens"),
        Input("topk_ids", "T", "K", dtype="int32", doc="experts of each of this rank's tokens, distinct"),
        Scalar("num_experts", "int", doc="E, of all ranks together"),
        Comm("comm"),
    )
    numerics = N6
    baselines = (
        Baseline(name="all_gather", file="all_gather.py"),
        Baseline(name="all_to_all", file="all_to_all.py"),
    )
    regimes = (Regime.REALISTIC, Regime.SKEWED, Regime.EMPTY)
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"T": (1, 128)}, "cuda": {"T": (1, 1500)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"E": 12, "K": 3, "H": 328}, {"E": 40, "K": 5, "H": 520}),
        "cuda": ({"E": 32, "K": 4, "H": 2880}, {"E": 64, "K": 6, "H": 2048}, {"E": 160, "K": 6, "H": 5120}),
    }

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        shape, dtype = (workload.sizes["T"], workload.sizes["H"]), getattr(torch, workload.dtype)
        experts = workload.sizes["E"]
        ids = self._routed(workload, draw).int().to(draw.device)
        return join([
            {
                "input": draw.vary_rows(draw.activation(shape, dtype), 100.0, 1e-3),
                "topk_ids": ids[rank], "num_experts": experts,
            }
            for rank in range(self.ranks)
        ])

    def _routed(self, workload: Workload, draw: Draw) -> torch.Tensor:
        """Experts of all tokens: int64 ``[ranks, T, K]``, on the host.

        All ranks share the popularity of the experts. How many rows go to each rank is the same in every draw of a timing ring: experts
        are put in order of their counts, and `draw.shared` deals them out to the ranks; only inside a rank their order is this draw's own.
        In the `SKEWED` regime all hot experts are on one rank, so that the other receives nothing.
        """
        tokens, experts, top_k = (workload.sizes[name] for name in ("T", "E", "K"))
        own = experts // self.ranks
        ids, _ = draw.routing(self.ranks * tokens, experts, top_k, workload.params.get("zipf", 0.8))
        by_count = ids.flatten().bincount(minlength=experts).argsort(descending=True, stable=True)
        dealt = torch.arange(experts) if draw.regime is Regime.SKEWED else torch.randperm(experts, generator=draw.shared)
        inside = torch.stack([draw.permutation(own) for _ in range(self.ranks)])
        owner = (dealt // own + (int(draw.permutation(self.ranks)[0]) if draw.regime is Regime.SKEWED else 0)) % self.ranks
        names = torch.empty_like(by_count)
        names[by_count] = owner * own + inside[owner, dealt % own]
        return names[ids].view(self.ranks, tokens, top_k)

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """Every token of every rank times a sign and a power of two, wherever its copies arrive. The routing stays with its set."""
        tokens, capacity, experts = workload.sizes["T"], 2 * workload.sizes["T"] * workload.sizes["K"], workload.sizes["E"]
        sets, device = entries.whole(), entries.order.device
        factors = [entries.signs(tokens) * entries.powers(tokens) for _ in range(self.ranks)]
        ids = torch.stack([entries.stacks[at_rank("topk_ids", rank)][entries.order] for rank in range(self.ranks)], 1)
        arguments: dict[str, Rows | torch.Tensor] = {}
        outputs: dict[str, Rows] = {}
        for rank, (source, _) in enumerate(_received(ids, experts)):
            # Padding comes from nowhere: it keeps its zeros.
            of_rows = torch.where(source < 0, 1.0, torch.cat(factors, 1).gather(1, source.clamp_min(0)))
            arguments[at_rank("input", rank)] = Rows(sets * tokens + torch.arange(tokens, device=device), factors[rank])
            arguments[at_rank("topk_ids", rank)] = Rows(sets)
            outputs[at_rank("recv", rank)] = Rows(sets * capacity + torch.arange(capacity, device=device), of_rows)
            outputs[at_rank("recv_source", rank)] = outputs[at_rank("expert_offsets", rank)] = Rows(sets)
        return Rearrangement(arguments, outputs)

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        ranks = self.split(args)
        rows = torch.cat([tensor(own, "input") for own in ranks]).double()
        ids = torch.stack([tensor(own, "topk_ids") for own in ranks])
        outputs = []
        for source, offsets in _received(ids[None], int(ranks[0]["num_experts"])):
            recv = torch.zeros(source.shape[1], rows.shape[1], dtype=torch.float64, device=rows.device)
            count = int(offsets[0, -1])
            recv[:count] = rows[source[0, :count]]
            outputs.append({"recv": recv, "recv_source": source[0].int(), "expert_offsets": offsets[0].int()})
        return join(outputs)

    def perturbed(self, args: Mapping[str, Value], rng: random.Random) -> dict[str, dict[str, Value]]:
        """The first choice of one token, on every rank in turn, goes to an expert that it had not chosen."""
        changes: dict[str, dict[str, Value]] = {}
        for rank, own in enumerate(self.split(args)):
            ids = tensor(own, "topk_ids").clone()
            if not len(ids):
                continue
            token = rng.randrange(len(ids))
            others = sorted(set(range(int(own["num_experts"]))) - set(ids[token].tolist()))
            if others:
                ids[token, 0] = rng.choice(others)
                changes[f"the first expert of one token of rank {rank}"] = {**args, at_rank("topk_ids", rank): ids}
        return changes

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        """Tokens and ids read once, all of the outputs written once, padding too; a token leaves its rank once for each other that needs
        it. Nothing is computed.
        """
        tokens, width, top_k, experts = (workload.sizes[name] for name in ("T", "H", "K", "E"))
        capacity = self.ranks * tokens * top_k
        integers = tokens * top_k + capacity + experts // self.ranks + 1
        size, sent = getattr(torch, workload.dtype).itemsize, 0
        for rank, own in enumerate(self.split(args)):
            owners = tensor(own, "topk_ids") // max(experts // self.ranks, 1)
            others = sum(int((owners == other).any(1).sum()) for other in range(self.ranks) if other != rank)
            sent = max(sent, others)
        return Cost(bytes=(tokens + capacity) * width * size + 4 * integers, flops=1, link=sent * width * size)


def _received(ids: torch.Tensor, experts: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What every rank receives, for several calls at once.

    Args:
        ids: Integers ``[calls, ranks, T, K]``.
        experts: Of all ranks together.

    Returns:
        By rank: the source of every row, or -1 (int64 ``[calls, ranks * T * K]``), and the first row of every local expert and the
        number of rows (int64 ``[calls, experts / ranks + 1]``).
    """
    calls, ranks, tokens, top_k = ids.shape
    span, own = max(ranks * tokens, 1), experts // ranks
    source = torch.arange(ranks * tokens, device=ids.device).repeat_interleave(top_k)
    keys = (ids.reshape(calls, -1).long() * span + source).sort(1).values
    bounds = torch.searchsorted(keys, (torch.arange(experts + 1, device=ids.device) * span).expand(calls, -1).contiguous())
    place = torch.arange(keys.shape[1], device=ids.device)
    received = []
    for rank in range(ranks):
        offsets = bounds[:, rank * own : (rank + 1) * own + 1]
        first, count = offsets[:, :1], offsets[:, -1:] - offsets[:, :1]
        sources = keys.gather(1, (first + place).clamp_max(keys.shape[1] - 1)) % span
        received.append((torch.where(place < count, sources, -1), offsets - first))
    return received


TASK = MoeDispatch()
