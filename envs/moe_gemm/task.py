"""Mixture-of-experts grouped GEMM: every token times the weights of the experts it was routed to."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import msgspec
import torch

from ...rearrange import Rearrangement, Rows
from ...task import Baseline, Cost, Input, Metadata, Output, Scalar, Task, Weight, Workload
from ...types import Regime

if TYPE_CHECKING:
    from ...rearrange import Entries
    from ...recipes import Draw
    from ...task import Range, Value


class MoeGemm(Task):
    """Grouped GEMM over rows that are sorted by expert and padded to blocks."""

    entry = "moe_gemm"
    version = 3
    summary = "Multiply every routed row by the weight matrix of its expert, with rows sorted by expert and padded to blocks."
    semantics = (
        "C has one row for each pair of a token and one of its experts, R rows in all: C[r, n] = sum over k of "
        "A[r // top_k, k] * B[e, n, k], where e is the expert of row r; if mul_routed_weight is true the sum is multiplied by "
        "topk_weights[r] before it is rounded. Rows come sorted by expert: num_tokens_post_padded[0] = P is a multiple of "
        "block_size, and for every slot s < P the row r = sorted_token_ids[s] belongs to expert expert_ids[s // block_size]; a "
        "value of R marks a padding slot, which has no row. Every row occurs in exactly one slot, blocks are in ascending order of "
        "experts, the order inside an expert is arbitrary, and an expert without rows has no block. From P up to the capacity EM, "
        "sorted_token_ids holds R and expert_ids holds 0. Write every row of C. R may be zero. Accumulate in float32 or better and "
        "round once. block_size is a power of two, at least 16. All tensors are contiguous; C is the argument that is written."
    )
    mirrors = "vllm.model_executor.layers.fused_moe.fused_moe.invoke_fused_moe_kernel"
    level = "L1"
    category = "llm"
    architectures = ("mixtral", "qwen3_moe", "qwen3_next", "qwen3_vl_moe", "kimi_linear", "jamba", "deepseek_v3", "gemma4")
    signature = (
        Input("A", "M", "K", doc="Activations: one row per token, or one per row of C when top_k is 1."),
        Weight("B", "E", "N", "K", doc="Weights of the experts, each [N, K]."),
        Output("C", "R", "N"),
        Metadata("topk_weights", "R", dtype="float32", doc="Routing weight of each row of C."),
        Metadata("sorted_token_ids", "EM", doc="Rows of C grouped by expert, padded with R."),
        Metadata("expert_ids", "EM//block", doc="Expert of each block of slots."),
        Metadata("num_tokens_post_padded", 1, doc="Number of slots in use."),
        Scalar("mul_routed_weight", "bool"),
        Scalar("top_k", "int", doc="Rows of C that share a row of A."),
        Scalar("block_size", "int", doc="Slots per block."),
    )
    baselines = (
        Baseline(name="eager", file="eager.py", devices=("cpu",)),
        Baseline(name="grouped_mm", file="grouped_mm.py"),
        Baseline(name="triton_tuned", file="triton_tuned.py", devices=("cuda",), requires="triton"),
    )
    regimes = (Regime.REALISTIC, Regime.SKEWED, Regime.EMPTY)
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"T": (1, 64)}, "cuda": {"T": (1, 5000)}}

    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"E": 11, "N": 200, "K": 144}, {"E": 32, "N": 120, "K": 352}, {"E": 12, "N": 208, "K": 160, "block": 64}),
        "cuda": (
            {"E": 64, "k": 6, "N": 2816, "K": 2048}, {"E": 32, "k": 4, "N": 2880, "K": 2880},
            {"E": 60, "k": 4, "N": 2816, "K": 2048, "block": 64},
        ),
    }

    def complete(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Rows R of C, rows M of A and capacity EM. Where ``down`` is 1 (the second GEMM) A already has a row per routed pair."""
        rows, block = sizes["T"] * sizes["k"], sizes["block"]
        capacity = -(-(rows + sizes["E"] * (block - 1)) // block) * block
        return {**sizes, "R": rows, "M": rows if sizes["down"] else sizes["T"], "EM": capacity}

    def place_variants(self, device: str, rng: random.Random, count: int) -> dict[int, Mapping[str, int]]:
        """As every task's, with the last variant for the second workload, which is the full one; what was there moves to the first."""
        placed = {0 if place == 1 else place: variant for place, variant in super().place_variants(device, rng, count).items()}
        return {**placed, 1: self.variants[device][-1]}

    def hidden_workloads(self, device: str, rng: random.Random, count: int) -> list[Workload]:
        """As every task's, with the routed weight where the public shape has none, and the other way round; the second one is full.

        The public float32 shapes have none: in bf16 alone, a weight that is read in half precision would not show. Where it is full, every
        expert has one row and every slot up to the capacity is in use, so that no kernel can count on blocks to spare.
        """
        drawn = super().hidden_workloads(device, rng, count)
        if count > 1:  # the first one has sizes at the edges, which are needed too
            sizes = {**drawn[1].sizes, "T": drawn[1].sizes["E"] // drawn[1].sizes["k"]}
            drawn[1] = msgspec.structs.replace(drawn[1], sizes=sizes, params={**drawn[1].params, "even": 1})
        flipped = [{**w.params, "mul_routed_weight": 1 - w.params.get("mul_routed_weight", 0)} for w in drawn]
        return [msgspec.structs.replace(w, params=params) for w, params in zip(drawn, flipped, strict=True)]

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        sizes, params = workload.sizes, workload.params
        dtype = getattr(torch, workload.dtype)
        ids, weights = draw.routing(sizes["T"], sizes["E"], sizes["k"], params.get("zipf", 0.8))
        if draw.regime is Regime.NORMAL or params.get("even"):
            ids = _balanced(sizes["T"], sizes["E"], sizes["k"], draw)
        sorted_ids, expert_ids, used = _align(ids.view(-1), sizes, draw)
        return {
            "A": draw.vary_rows(draw.activation((sizes["M"], sizes["K"]), dtype), 4.0, 1e-3),
            "B": draw.matrix((sizes["E"], sizes["N"], sizes["K"]), dtype, sizes["K"], one_sign=True),
            "topk_weights": weights.view(-1).to(draw.device),
            "sorted_token_ids": sorted_ids.int().to(draw.device),
            "expert_ids": expert_ids.int().to(draw.device),
            "num_tokens_post_padded": torch.tensor([used], dtype=torch.int32, device=draw.device),
            "mul_routed_weight": bool(params.get("mul_routed_weight", 0)),
            "top_k": 1 if sizes["down"] else sizes["k"],
            "block_size": sizes["block"],
        }

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """The tokens of every set in another order, each row of A times a sign and a power of two, and the aligned arrays to match.

        Tokens stay with their set, whose hit experts are its work.
        """
        tokens, top_k, rows, depth = (workload.sizes[name] for name in ("T", "k", "R", "M"))
        sets, source = entries.whole(), entries.permutations(tokens)
        ranks = torch.arange(top_k, device=source.device)
        row_source = (source[:, :, None] * top_k + ranks).flatten(1)
        row_target = torch.full((entries.slots, rows + 1), rows, device=source.device)  # the last stands for padding
        row_target[:, :rows] = row_source.argsort(1)
        factor = entries.signs(depth) * entries.powers(depth)
        of_rows = factor if workload.sizes["down"] else factor.repeat_interleave(top_k, 1)
        weights, same = Rows(sets * rows + row_source), Rows(sets)
        return Rearrangement(
            {
                "A": Rows(sets * depth + (row_source if workload.sizes["down"] else source), factor),
                "topk_weights": weights, "sorted_token_ids": _relabelled(entries, row_target, workload.sizes["block"]),
                "expert_ids": same, "num_tokens_post_padded": same,
            },
            {"C": Rows(weights.source, of_rows)},
        )

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        a, b, weights = (_tensor(args, name) for name in ("A", "B", "topk_weights"))
        top_k = int(args["top_k"])
        out = torch.zeros(weights.numel(), b.shape[1], dtype=torch.float64, device=a.device)
        for expert, rows in _rows_by_expert(args):
            out[rows] = a[rows // top_k].double() @ b[expert].double().T
        return {"C": out * weights.double()[:, None] if args["mul_routed_weight"] else out}

    def groups(self, args: Mapping[str, Value]) -> dict[str, dict[str, torch.Tensor]]:
        slots, owner = _owners(args)
        expert = torch.zeros(_tensor(args, "topk_weights").numel(), dtype=torch.int64, device=slots.device)
        expert[slots] = owner
        return {"C": {"expert": expert}}

    def unused(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        """Weights of experts without rows."""
        weights = _tensor(args, "B")
        mask = torch.ones(len(weights), 1, 1, dtype=torch.bool, device=weights.device)
        mask[[expert for expert, _ in _rows_by_expert(args)]] = False
        return {"B": mask}

    def perturbed(self, args: Mapping[str, Value], rng: random.Random) -> dict[str, dict[str, Value]]:
        """Two rows of different experts change places."""
        owners = _rows_by_expert(args)
        if len(owners) < 2:
            return {}
        one, other = (rows[rng.randrange(len(rows))] for _, rows in rng.sample(owners, 2))
        slots = _tensor(args, "sorted_token_ids")
        swapped = torch.where(slots == one, other.to(slots.dtype), torch.where(slots == other, one.to(slots.dtype), slots))
        return {"the experts of two rows": {**args, "sorted_token_ids": swapped}}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        sizes, item = workload.sizes, getattr(torch, workload.dtype).itemsize
        hit = len(_rows_by_expert(args))
        elements = hit * sizes["N"] * sizes["K"] + sizes["M"] * sizes["K"] + sizes["R"] * sizes["N"]
        metadata = 4 * sizes["R"] * (2 if args["mul_routed_weight"] else 1)
        return Cost(bytes=elements * item + metadata, flops=2 * sizes["R"] * sizes["N"] * sizes["K"])


def _balanced(tokens: int, experts: int, top_k: int, draw: Draw) -> torch.Tensor:
    """Perfectly even routing, which common benchmarks use: distinct experts per token, full blocks wherever the sizes allow."""
    ids = torch.arange(tokens * top_k).view(tokens, top_k) % experts
    return draw.permutation(experts)[ids][draw.permutation(tokens)]


def _align(flat: torch.Tensor, sizes: Mapping[str, int], draw: Draw) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Sorted and padded rows, experts of the blocks, and the number of slots in use, from the expert of every row (on the host)."""
    rows, experts, block, capacity = sizes["R"], sizes["E"], sizes["block"], sizes["EM"]
    start = draw.permutation(rows) if draw.regime is Regime.SKEWED else torch.arange(rows)
    order = start[flat[start].argsort(stable=True)]
    counts = flat.bincount(minlength=experts)
    blocks = (counts + block - 1) // block
    shift = blocks.cumsum(0) * block - blocks * block - counts.cumsum(0) + counts
    sorted_ids = torch.full((capacity,), rows)
    sorted_ids[torch.arange(rows) + shift[flat[order]]] = order
    expert_ids = torch.zeros(capacity // block, dtype=torch.int64)
    used = int(blocks.sum())
    expert_ids[:used] = torch.arange(experts).repeat_interleave(blocks)
    return sorted_ids, expert_ids, used * block


def _relabelled(entries: Entries, target: torch.Tensor, block: int) -> torch.Tensor:
    """Aligned rows under their new numbers (`target`, by old number), in ascending order inside every expert: int32 ``[slots, EM]``."""
    ids = entries.stacks["sorted_token_ids"][entries.order].long()
    experts = entries.stacks["expert_ids"][entries.order].long().repeat_interleave(block, 1)
    used = entries.stacks["num_tokens_post_padded"][entries.order].long()
    beyond = torch.arange(ids.shape[1], device=ids.device) >= used
    span = target.shape[1]
    keys = torch.where(beyond, (experts.max() + 1) * span, experts * span) + target.gather(1, ids)
    return (keys.sort(1).values % span).int()


def _owners(args: Mapping[str, Value]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of C in aligned order, and the expert of each (int64)."""
    rows, block = _tensor(args, "topk_weights").numel(), int(args["block_size"])
    slots = _tensor(args, "sorted_token_ids")[: int(args["num_tokens_post_padded"])].long()
    owner = _tensor(args, "expert_ids").repeat_interleave(block)[: slots.numel()].long()
    there = slots < rows
    return slots[there], owner[there]


def _rows_by_expert(args: Mapping[str, Value]) -> list[tuple[int, torch.Tensor]]:
    """Hit experts and their rows of C, from the aligned arrays."""
    slots, owner = _owners(args)
    hit, counts = owner.unique(return_counts=True)  # type: ignore[no-untyped-call]
    grouped = torch.split(slots[owner.argsort(stable=True)], counts.tolist())
    return list(zip(hit.tolist(), grouped, strict=True))


def _tensor(args: Mapping[str, Value], name: str) -> torch.Tensor:
    value = args[name]
    assert isinstance(value, torch.Tensor)
    return value


TASK = MoeGemm()
