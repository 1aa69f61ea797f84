"""Alignment of routed tokens: sorted by expert, and padded to the blocks of a grouped GEMM."""

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


class MoeAlign(Task):
    """Routed pairs in the order of their experts, every expert's padded to whole blocks."""

    entry = "moe_align_block_size"
    summary = "Sort the pairs of tokens and experts by expert, and pad every expert's to whole blocks."
    semantics = (
        "The pairs r = t * k + j in [0, R), R = T * k, belong to the experts topk_ids[t, j], which lie in [0, num_experts) and are "
        "distinct for each token. An expert with c pairs gets ceil(c / block_size) blocks of block_size slots, one without pairs gets "
        "none. Blocks lie in ascending order of experts. sorted_token_ids holds every expert's pairs in its slots, in ascending order of "
        "r, and R in the slots that are left in its last block. expert_ids holds the expert of every block. num_tokens_post_pad[0] is the "
        "number of slots of all blocks. From there up to the capacity EM, sorted_token_ids holds R; from the last block on, expert_ids "
        "holds 0. block_size is a power of two, at least 16. R may be zero. All tensors are contiguous."
    )
    mirrors = "vllm._custom_ops.moe_align_block_size, with the order inside an expert fixed"
    level = "L1"
    category = "llm"
    architectures = ("mixtral", "qwen3_moe", "qwen3_next", "qwen3_vl_moe", "deepseek_v3", "kimi_linear", "jamba", "gemma4")
    signature = (
        Input("topk_ids", "T", "k", dtype="int32"),
        Scalar("num_experts", "int", doc="E"),
        Scalar("block_size", "int", doc="block"),
        Output("sorted_token_ids", "EM", dtype="int32"),
        Output("expert_ids", "EM//block", dtype="int32"),
        Output("num_tokens_post_pad", 1, dtype="int32"),
    )
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", compile=True),
        Baseline(name="triton_single", file="triton_single.py", devices=("cuda",), requires="triton"),
    )
    regimes = (Regime.REALISTIC, Regime.SKEWED, Regime.EMPTY)
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"T": (1, 700)}, "cuda": {"T": (1, 6000)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"E": 60, "k": 4, "block": 32}, {"E": 5, "k": 5, "block": 16}, {"E": 300, "k": 1, "block": 64}),
        "cuda": ({"E": 60, "k": 4, "block": 32}, {"E": 5, "k": 5, "block": 16}, {"E": 300, "k": 1, "block": 64}),
    }

    def complete(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Capacity EM of the slots: what the most uneven routing needs, in whole blocks."""
        return {**sizes, "EM": _capacity(sizes["T"] * sizes["k"], sizes["E"], sizes["block"])}

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        sizes = workload.sizes
        ids, _ = draw.routing(sizes["T"], sizes["E"], sizes["k"], workload.params.get("zipf", 0.8))
        return {"topk_ids": ids.int().to(draw.device), "num_experts": sizes["E"], "block_size": sizes["block"]}

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """Experts with equally many blocks change their names: the blocks of the sorted pairs change places, and all else stays."""
        tokens, top_k, experts, block, capacity = (workload.sizes[name] for name in ("T", "k", "E", "block", "EM"))
        ids = entries.stacks["topk_ids"][entries.order].flatten(1).long()
        counts = torch.zeros(entries.slots, experts, dtype=torch.int64, device=ids.device).scatter_add_(1, ids, torch.ones_like(ids))
        blocks = (counts + block - 1) // block
        ends = blocks.cumsum(1)  # by name: the same before and after
        rising, other = blocks.argsort(dim=1, stable=True), (blocks * experts + entries.permutations(experts)).argsort(1)
        former = torch.empty_like(rising).scatter_(1, other, rising)  # by new name the old one
        place = torch.arange(capacity // block, device=ids.device).expand(entries.slots, -1).contiguous()
        name = torch.searchsorted(ends, place, right=True).clamp_max(experts - 1)
        start = ends - blocks
        moved = place - start.gather(1, name) + start.gather(1, former.gather(1, name))
        source = torch.where(place < ends[:, -1:], moved, place)
        whole = entries.whole()
        renamed = former.argsort(1).gather(1, ids).view(entries.slots, tokens, top_k).int()
        slots, same = Rows(whole * (capacity // block) + source), Rows(whole)
        return Rearrangement({"topk_ids": renamed}, {"sorted_token_ids": slots, "expert_ids": same, "num_tokens_post_pad": same})

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        ids, experts, block = torch.as_tensor(args["topk_ids"]).flatten().long(), int(args["num_experts"]), int(args["block_size"])
        pairs, device = len(ids), ids.device
        capacity = _capacity(pairs, experts, block)
        owner, order = ids.sort(stable=True)
        counts = ids.bincount(minlength=experts)
        blocks = (counts + block - 1) // block
        ends = blocks.cumsum(0)
        slots = torch.full((capacity,), pairs, dtype=torch.int32, device=device)
        shift = (ends - blocks) * block - (counts.cumsum(0) - counts)
        slots[torch.arange(pairs, device=device) + shift[owner]] = order.int()
        expert_ids = torch.zeros(capacity // block, dtype=torch.int32, device=device)
        expert_ids[: int(ends[-1])] = torch.arange(experts, dtype=torch.int32, device=device).repeat_interleave(blocks)
        return {"sorted_token_ids": slots, "expert_ids": expert_ids, "num_tokens_post_pad": (ends[-1:] * block).int()}

    def perturbed(self, args: Mapping[str, Value], rng: random.Random) -> dict[str, dict[str, Value]]:
        """One choice of one token goes to an expert that it had not chosen."""
        ids = torch.as_tensor(args["topk_ids"]).clone()
        if not len(ids):
            return {}
        token, choice = rng.randrange(len(ids)), rng.randrange(ids.shape[1])
        others = sorted(set(range(int(args["num_experts"]))) - set(ids[token].tolist()))
        if not others:
            return {}
        ids[token, choice] = rng.choice(others)
        return {"one expert of one token": {**args, "topk_ids": ids}}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        sizes = workload.sizes
        pairs, capacity = sizes["T"] * sizes["k"], sizes["EM"]
        return Cost(bytes=4 * (pairs + capacity + capacity // sizes["block"] + 1), flops=pairs)


def _capacity(pairs: int, experts: int, block: int) -> int:
    return -(-(pairs + experts * (block - 1)) // block) * block


TASK = MoeAlign()
