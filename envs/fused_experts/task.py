"""The expert layer of a mixture-of-experts model: two grouped GEMMs around a gated activation, and the weighted sum."""

from __future__ import annotations

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


class FusedExperts(Task):
    """Gated MLP of every chosen expert, summed with the routing weights."""

    entry = "fused_experts"
    summary = "Run every token through the gated MLPs of its k experts and sum the results with the routing weights."
    semantics = (
        "out[t] = sum over j < k of topk_weights[t, j] * w2[e] @ (silu(g) * u), where e = topk_ids[t, j], "
        "g = w13[e, :I] @ hidden_states[t] (the first I rows of w13 are the gate), u = w13[e, I:] @ hidden_states[t] and "
        "silu(x) = x / (1 + exp(-x)). The k experts of a token are distinct; any expert may have no token, one may have all, and "
        "T may be zero. Accumulate in float32 or better. The activated intermediate and the results of the single experts may "
        "be rounded to the tensors' dtype once each, as production does. All tensors are contiguous."
    )
    mirrors = "vllm.model_executor.layers.fused_moe.fused_experts, flashinfer.fused_moe.cutlass_fused_moe"
    level = "L2"
    category = "llm"
    architectures = ("mixtral", "qwen3_moe", "qwen3_next", "qwen3_vl_moe", "kimi_linear", "jamba", "deepseek_v3", "gemma4")
    signature = (
        Output("out", "T", "H"),
        Input("hidden_states", "T", "H"),
        Weight("w13", "E", "2*I", "H", doc="Gate rows, then up rows, of every expert."),
        Weight("w2", "E", "H", "I", doc="Down projection of every expert."),
        Input("topk_weights", "T", "k", dtype="float32", doc="Routing weights; they sum to one for each token."),
        Input("topk_ids", "T", "k", dtype="int32", doc="Experts of each token, distinct."),
    )
    baselines = (
        Baseline(name="eager", file="eager.py", devices=("cpu",)),
        Baseline(name="grouped_mm", file="grouped_mm.py"),
        Baseline(name="triton_tuned", file="triton_tuned.py", devices=("cuda",), requires="triton"),
    )
    regimes = (Regime.REALISTIC, Regime.SKEWED, Regime.EMPTY)
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"T": (1, 48)}, "cuda": {"T": (1, 5000)}}

    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"E": 11, "H": 144, "I": 200}, {"E": 32, "H": 352, "I": 88}),
        "cuda": ({"E": 64, "k": 6, "H": 2048, "I": 1408}, {"E": 32, "k": 4, "H": 2880, "I": 720}),
    }

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        tokens, width, experts, top_k, inner = (workload.sizes[name] for name in ("T", "H", "E", "k", "I"))
        dtype = getattr(torch, workload.dtype)
        ids, weights = draw.routing(tokens, experts, top_k, workload.params.get("zipf", 0.8))
        if draw.regime is Regime.NORMAL:
            ids = _balanced(tokens, experts, top_k, draw)
        return {
            # No larger rows: their intermediates grow with the square, and production rounds those to 16 bits.
            "hidden_states": draw.vary_rows(draw.activation((tokens, width), dtype), 1.0, 1e-3),
            "w13": draw.matrix((experts, 2 * inner, width), dtype, width),
            "w2": draw.matrix((experts, width, inner), dtype, inner),
            "topk_weights": weights.to(draw.device),
            "topk_ids": ids.int().to(draw.device),
        }

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """The tokens of every set in another order. They stay together: a set's tokens share its hit experts, and so its work.

        Nothing passes through the activation unchanged, and routing weights must sum to one. So of one token only the place changes.
        """
        tokens = workload.sizes["T"]
        rows = Rows(entries.whole() * tokens + entries.permutations(tokens))
        return Rearrangement({"hidden_states": rows, "topk_weights": rows, "topk_ids": rows}, {"out": rows})

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        x, w13, w2, weights, ids = (_tensor(args, n) for n in ("hidden_states", "w13", "w2", "topk_weights", "topk_ids"))
        out = torch.zeros(x.shape, dtype=torch.float64, device=x.device)
        for expert in _hit(ids):
            tokens, slots = torch.where(ids == expert)
            gate, up = (x[tokens].double() @ w13[expert].double().T).chunk(2, dim=1)
            result = (torch.nn.functional.silu(gate) * up) @ w2[expert].double().T
            out[tokens] += result * weights[tokens, slots].double()[:, None]
        return {"out": out}

    def groups(self, args: Mapping[str, Value]) -> dict[str, dict[str, torch.Tensor]]:
        """Tokens by the expert with the largest weight."""
        weights, ids = _tensor(args, "topk_weights"), _tensor(args, "topk_ids")
        return {"out": {"expert": ids.gather(1, weights.argmax(1, keepdim=True)).flatten().long()}}

    def unused(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        """Weights of experts without tokens."""
        weights = _tensor(args, "w13")
        mask = torch.ones(len(weights), 1, 1, dtype=torch.bool, device=weights.device)
        mask[_hit(_tensor(args, "topk_ids"))] = False
        return {"w13": mask, "w2": mask}

    def perturbed(self, args: Mapping[str, Value], rng: random.Random) -> dict[str, dict[str, Value]]:
        """The first choice of one token goes to an expert that it had not chosen."""
        ids, weights = _tensor(args, "topk_ids").clone(), _tensor(args, "topk_weights")
        if not len(ids):
            return {}
        token = rng.randrange(len(ids))
        others = sorted(set(range(len(_tensor(args, "w13")))) - set(ids[token].tolist()))
        if not others:
            return {}
        ids[token, weights[token].argmax()] = rng.choice(others)
        return {"the first expert of one token": {**args, "topk_ids": ids}}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        tokens, width, top_k, inner = (workload.sizes[name] for name in ("T", "H", "k", "I"))
        hit = len(_hit(_tensor(args, "topk_ids")))
        elements = 3 * hit * inner * width + 2 * tokens * width
        item = getattr(torch, workload.dtype).itemsize
        return Cost(bytes=elements * item + 8 * tokens * top_k, flops=6 * tokens * top_k * width * inner)


def _balanced(tokens: int, experts: int, top_k: int, draw: Draw) -> torch.Tensor:
    """Perfectly even routing, which common benchmarks use: distinct experts per token, equal counts wherever the sizes allow."""
    ids = torch.arange(tokens * top_k).view(tokens, top_k) % experts
    return draw.permutation(experts)[ids][draw.permutation(tokens)]


def _hit(ids: torch.Tensor) -> list[int]:
    """Experts that have at least one token."""
    return sorted(set(ids.flatten().tolist()))


def _tensor(args: Mapping[str, Value], name: str) -> torch.Tensor:
    value = args[name]
    assert isinstance(value, torch.Tensor)
    return value


TASK = FusedExperts()
