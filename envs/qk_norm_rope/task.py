"""RMSNorm of every query and key head and its rotary embedding, in place on packed qkv rows."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import msgspec
import torch

from ...rearrange import Rearrangement, Rows
from ...task import Baseline, Cost, InOut, Metadata, Scalar, Task, Weight, Workload
from ..rope.task import _cache, _positions

if TYPE_CHECKING:
    from ...rearrange import Entries
    from ...recipes import Draw
    from ...task import Range, Value


class QkNormRope(Task):
    """Query and key heads normalised, each kind with a weight of its own, and rotated; values stay."""

    entry = "fused_qk_norm_rope"
    summary = "RMS-normalise every query and key head of packed qkv rows and rotate it by its token's position, in place; leave the values."
    semantics = (
        "A row of qkv holds num_heads_q query heads, then num_heads_k key heads, then num_heads_v value heads, of head_dim channels each. "
        "Every query head x of token t first becomes n[j] = x[j] / sqrt(mean over j of x[j]^2 + eps) * q_weight[j], a key head the same "
        "with k_weight. Then, with r = rot / 2 <= head_dim / 2, c[i] = cos_sin_cache[position_ids[t], i] and s[i] = "
        "cos_sin_cache[position_ids[t], r + i] for i in [0, r), its pairs are rotated: y[a] = n[a] * c[i] - n[b] * s[i] and y[b] = "
        "n[b] * c[i] + n[a] * s[i], where (a, b) = (i, r + i) if is_neox, else (2 * i, 2 * i + 1). Channels from rot on are normalised and "
        "not rotated: y[j] = n[j]. The head is replaced by y. Value heads keep what they hold. Compute in float32 or better and round "
        "once, at the end. Positions may repeat and come in any order. All tensors are contiguous."
    )
    mirrors = "vllm torch.ops._C.fused_qk_norm_rope"
    level = "L2"
    category = "llm"
    architectures = ("qwen3_moe", "qwen3_next", "qwen3_vl_moe", "gemma4")
    signature = (
        InOut("qkv", "T", "(q+2*kv)*d"),
        Scalar("num_heads_q", "int", doc="q"),
        Scalar("num_heads_k", "int", doc="kv"),
        Scalar("num_heads_v", "int", doc="kv"),
        Scalar("head_dim", "int", doc="d"),
        Scalar("eps", "float"),
        Weight("q_weight", "d"),
        Weight("k_weight", "d"),
        Weight("cos_sin_cache", "P", "rot", dtype="float32", doc="cosines in the first half of a row, sines in the second"),
        Scalar("is_neox", "bool"),
        Metadata("position_ids", "T", dtype="int64", doc="row of the cache, by token"),
    )
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", compile=True),
        Baseline(name="flashinfer", file="flashinfer.py", devices=("cuda",), requires="flashinfer"),
    )
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"T": (1, 100)}, "cuda": {"T": (1, 6000)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"q": 7, "kv": 1, "rot": 64}, {"q": 12, "kv": 3, "d": 96, "rot": 96}, {"q": 5, "kv": 5, "d": 80, "rot": 32}),
        "cuda": ({"q": 7, "kv": 1, "rot": 64}, {"q": 12, "kv": 3, "d": 96, "rot": 96}, {"q": 40, "kv": 8, "d": 128, "rot": 128}),
    }

    def hidden_workloads(self, device: str, rng: random.Random, count: int) -> list[Workload]:
        """As every task's, with both styles in turn: a kernel that knows one must not pass by the luck of the draw."""
        drawn = super().hidden_workloads(device, rng, count)
        return [msgspec.structs.replace(w, params={**w.params, "neox": index % 2}) for index, w in enumerate(drawn)]

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        """Values of every argument.

        ``workload.params``: ``theta``, the base of the angles; ``neox``, 0 or 1; ``run``, consecutive positions of a sequence.
        """
        sizes, params = workload.sizes, workload.params
        tokens, heads, kv_heads, width = (sizes[name] for name in ("T", "q", "kv", "d"))
        dtype = getattr(torch, workload.dtype)
        # Heads that are small enough show the epsilon.
        rows = draw.vary_rows(draw.activation((tokens * (heads + 2 * kv_heads), width), dtype), 100.0, 1e-3)
        return {
            "qkv": rows.view(tokens, -1) if tokens else rows.new_empty(0, (heads + 2 * kv_heads) * width),
            "num_heads_q": heads, "num_heads_k": kv_heads, "num_heads_v": kv_heads, "head_dim": width,
            "eps": 1e-6,
            "q_weight": draw.parameter((width,), dtype),
            "k_weight": draw.parameter((width,), dtype),
            "cos_sin_cache": draw.weight(lambda: _cache(draw, sizes["P"], sizes["rot"], params.get("theta", 10000.0))),
            "is_neox": bool(params.get("neox", 1)),
            "position_ids": _positions(draw, tokens, sizes["P"], int(params.get("run", 1))),
        }

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """Runs of consecutive positions dealt out anew, their rows with either sign: it goes through the norm and the rotation."""
        tokens, run = workload.sizes["T"], min(int(workload.params.get("run", 1)), workload.sizes["P"])
        runs = tokens // run if tokens % run == 0 else 1
        index = entries.rows(runs)
        rows = Rows(index, entries.signs(runs))
        return Rearrangement({"qkv": rows, "position_ids": Rows(index)}, {"qkv": rows})

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        qkv, cache = torch.as_tensor(args["qkv"]), torch.as_tensor(args["cos_sin_cache"])
        width, heads = int(args["head_dim"]), int(args["num_heads_q"])
        x = qkv.to(torch.float64, copy=True).view(len(qkv), qkv.shape[1] // width, width)
        cos, sin = cache[torch.as_tensor(args["position_ids"])].double()[:, None].chunk(2, dim=-1)
        rot, half = cache.shape[1], cache.shape[1] // 2
        first, second = (slice(half), slice(half, rot)) if args["is_neox"] else (slice(0, rot, 2), slice(1, rot, 2))
        for part, name in ((slice(heads), "q_weight"), (slice(heads, heads + int(args["num_heads_k"])), "k_weight")):
            scale = (x[:, part].square().mean(-1, keepdim=True) + args["eps"]).rsqrt()
            normed = x[:, part] * scale * torch.as_tensor(args[name]).double()
            a, b = normed[..., first], normed[..., second]
            x[:, part] = normed
            x[:, part, first], x[:, part, second] = a * cos - b * sin, b * cos + a * sin
        return {"qkv": x.view(qkv.shape)}

    def groups(self, args: Mapping[str, Value]) -> dict[str, dict[str, torch.Tensor]]:
        tokens, width = torch.as_tensor(args["qkv"]).shape
        return {"qkv": {"head": torch.arange(width // int(args["head_dim"])).repeat(tokens)}}

    def unused(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        """Rows of the cache that no token names."""
        cache = torch.as_tensor(args["cos_sin_cache"])
        mask = torch.ones(len(cache), 1, dtype=torch.bool, device=cache.device)
        mask[torch.as_tensor(args["position_ids"])] = False
        return {"cos_sin_cache": mask}

    def perturbed(self, args: Mapping[str, Value], rng: random.Random) -> dict[str, dict[str, Value]]:
        """One token moves by half of the cache."""
        positions, limit = torch.as_tensor(args["position_ids"]).clone(), len(torch.as_tensor(args["cos_sin_cache"]))
        if not len(positions) or limit < 2:
            return {}
        token = rng.randrange(len(positions))
        positions[token] = (positions[token] + limit // 2) % limit
        return {"the position of one token": {**args, "position_ids": positions}}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        sizes, item = workload.sizes, getattr(torch, workload.dtype).itemsize
        elements = sizes["T"] * (sizes["q"] + sizes["kv"]) * sizes["d"]
        rows = torch.unique(torch.as_tensor(args["position_ids"])).numel()
        moved = 2 * (elements + sizes["d"]) * item + 8 * sizes["T"] + 4 * rows * sizes["rot"]
        return Cost(bytes=moved, flops=7 * elements)


TASK = QkNormRope()
