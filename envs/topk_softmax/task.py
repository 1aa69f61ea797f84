"""Softmax routing: the top-k experts of every token, and their weights."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import msgspec
import torch

from ...rearrange import Rearrangement, Rows
from ...task import Baseline, Cost, Input, Output, Scalar, Task, Workload
from ...types import Regime

if TYPE_CHECKING:
    from ...rearrange import Entries
    from ...recipes import Draw
    from ...task import Range, Value

GRID = 64
"""Logits are multiples of ``1 / GRID``: many of them tie, and all others are apart in float32 probabilities too."""


class TopkSoftmax(Task):
    """Softmax over the experts of a row, its k largest probabilities, and where they lie."""

    entry = "topk_softmax"
    summary = "Take the softmax of every row of router logits, and its k largest probabilities with their experts, in descending order."
    semantics = (
        "With p[e] = exp(gating_output[t, e]) / sum over all E experts of exp(gating_output[t, .]), topk_ids[t] are the k experts with the "
        "largest logits of row t, in descending order; of equal logits the lower expert comes first. topk_weights[t, j] = "
        "p[topk_ids[t, j]], divided by the sum of these k probabilities if renormalize is true. token_expert_indices[t, j] = j * T + t, "
        "with T the number of rows. Logits that are not equal differ by at least 1/64, and those of a row by less than 80, so that float32 "
        "probabilities have the order of the logits. k is at most E. Compute in float32 or better. All tensors are contiguous."
    )
    mirrors = "vllm._custom_ops.topk_softmax"
    level = "L1"
    category = "llm"
    architectures = ("mixtral", "qwen3_moe", "qwen3_next", "qwen3_vl_moe", "jamba", "gpt_oss")
    signature = (
        Output("topk_weights", "T", "k", dtype="float32"),
        # Not `ties`: that leaves the order inside a row free, and ids beside the wrong weights would pass.
        Output("topk_ids", "T", "k", dtype="int32"),
        Output("token_expert_indices", "T", "k", dtype="int32"),
        Input("gating_output", "T", "E", doc="router logits"),
        Scalar("topk", "int", doc="k"),
        Scalar("renormalize", "bool"),
    )
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", compile=True),
        Baseline(name="triton_tuned", file="triton_tuned.py", devices=("cuda",), requires="triton"),
    )
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"T": (1, 400)}, "cuda": {"T": (1, 6000)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"E": 60, "k": 4}, {"E": 72, "k": 1}, {"E": 5, "k": 5}),
        "cuda": ({"E": 60, "k": 4}, {"E": 72, "k": 1}, {"E": 160, "k": 6}),
    }

    def hidden_workloads(self, device: str, rng: random.Random, count: int) -> list[Workload]:
        """As every task's, with and without renormalisation in turn."""
        drawn = super().hidden_workloads(device, rng, count)
        return [msgspec.structs.replace(w, params={**w.params, "renormalize": index % 2}) for index, w in enumerate(drawn)]

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        tokens, experts = workload.sizes["T"], workload.sizes["E"]
        if draw.regime is Regime.NORMAL:
            logits = draw.normal((tokens, experts), torch.float32)
        else:  # Gumbel noise over a Zipf popularity in an order of its own
            noise = torch.rand((tokens, experts), generator=draw.generator, device=draw.device).clamp_(1e-9, 1 - 1e-7)
            popularity = (draw.permutation(experts) + 1).to(draw.device).log().mul(-workload.params.get("zipf", 0.8))
            logits = draw.vary_rows(popularity - (-noise.log()).log(), 2.0, 0.1)
        return {
            "gating_output": logits.mul(GRID).round().div(GRID).to(getattr(torch, workload.dtype)),
            "topk": workload.sizes["k"],
            "renormalize": bool(workload.params.get("renormalize", 1)),
        }

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """Rows dealt out anew. What says where a row lies stays."""
        tokens = workload.sizes["T"]
        rows, place = Rows(entries.rows(tokens)), Rows(entries.whole() * tokens + torch.arange(tokens, device=entries.order.device))
        return Rearrangement({"gating_output": rows}, {"topk_weights": rows, "topk_ids": rows, "token_expert_indices": place})

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        logits = torch.as_tensor(args["gating_output"]).double()
        tokens, top_k = len(logits), int(args["topk"])
        ids = logits.sort(dim=1, descending=True, stable=True).indices[:, :top_k]
        weights = logits.softmax(1).gather(1, ids)
        place = torch.arange(tokens * top_k, dtype=torch.int32, device=ids.device).view(top_k, tokens).T
        return {
            "topk_weights": weights / weights.sum(1, keepdim=True) if args["renormalize"] else weights,
            "topk_ids": ids.int(),
            "token_expert_indices": place,
        }

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        tokens, experts, top_k = (workload.sizes[name] for name in ("T", "E", "k"))
        moved = tokens * (experts * getattr(torch, workload.dtype).itemsize + 12 * top_k)
        return Cost(bytes=moved, flops=4 * tokens * experts)


TASK = TopkSoftmax()
