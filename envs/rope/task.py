"""Rotary position embedding of query and key, in place."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import msgspec
import torch

from ...rearrange import Rearrangement, Rows
from ...task import Baseline, Cost, InOut, Metadata, Scalar, Task, Weight, Workload

if TYPE_CHECKING:
    from ...rearrange import Entries
    from ...recipes import Draw
    from ...task import Range, Value


class Rope(Task):
    """Rotates pairs of channels of every head by an angle that grows with the token's position."""

    entry = "rope"
    version = 2
    summary = "Rotate every head of query and key, in place, by the cosines and sines of its token's position."
    semantics = (
        "With R = head_size / 2, query and key seen as heads of head_size channels, and for token t: c[i] = "
        "cos_sin_cache[positions[t], i], s[i] = cos_sin_cache[positions[t], R + i], i in [0, R). Every head x of both tensors "
        "becomes y with y[a] = x[a] * c[i] - x[b] * s[i] and y[b] = x[b] * c[i] + x[a] * s[i], where (a, b) = (i, R + i) if is_neox, "
        "else (2 * i, 2 * i + 1). Compute in float32 (the cache's dtype) and round once. Query and key are usually slices of wider qkv "
        "rows: their row stride may be larger than their width, and what lies between their rows must stay as it is. Positions may "
        "repeat and come in any order."
    )
    mirrors = "vllm._custom_ops.rotary_embedding, flashinfer.rope.apply_rope_with_cos_sin_cache_inplace"
    level = "L1"
    category = "llm"
    architectures = ("llama", "mixtral", "qwen3_moe", "qwen3_next", "deepseek_v3", "gpt_oss", "command_r", "llada")
    signature = (
        Metadata("positions", "T", dtype="int64", doc="row of the cache, by token"),
        InOut("query", "T", "q*d", row_stride="row_stride"),
        InOut("key", "T", "kv*d", row_stride="row_stride"),
        Scalar("head_size", "int", doc="d"),
        Weight("cos_sin_cache", "P", "d", dtype="float32", doc="cosines in the first half of a row, sines in the second"),
        Scalar("is_neox", "bool"),
    )
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", compile=True),
        Baseline(name="flashinfer", file="flashinfer.py", devices=("cuda",), requires="flashinfer"),
    )
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"T": (1, 400)}, "cuda": {"T": (1, 6000)}}

    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"q": 16, "kv": 2, "d": 256}, {"q": 7, "kv": 1, "d": 128}, {"q": 12, "kv": 12, "d": 64}),
        "cuda": ({"q": 16, "kv": 2, "d": 256}, {"q": 7, "kv": 1, "d": 128}, {"q": 40, "kv": 8, "d": 128}, {"q": 12, "kv": 12, "d": 64}),
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
        dtype = getattr(torch, workload.dtype)
        head_size = sizes["d"]
        return {
            "positions": _positions(draw, sizes["T"], sizes["P"], int(params.get("run", 1))),
            "query": draw.vary_rows(draw.activation((sizes["T"], sizes["q"] * head_size), dtype), 100.0, 1e-3),
            "key": draw.vary_rows(draw.activation((sizes["T"], sizes["kv"] * head_size), dtype), 100.0, 1e-3),
            "head_size": head_size,
            "cos_sin_cache": draw.weight(lambda: _cache(draw, sizes["P"], head_size, params.get("theta", 10000.0))),
            "is_neox": bool(params.get("neox", 1)),
        }

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """Runs of consecutive positions dealt out anew, query and key each times a sign and a power of two: a rotation is linear."""
        tokens, run = workload.sizes["T"], min(int(workload.params.get("run", 1)), workload.sizes["P"])
        runs = tokens // run if tokens % run == 0 else 1
        index = entries.rows(runs)
        query, key = (Rows(index, entries.signs(runs) * entries.powers(runs)) for _ in range(2))
        return Rearrangement({"positions": Rows(index), "query": query, "key": key}, {"query": query, "key": key})

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        cache, head_size = _tensor(args, "cos_sin_cache"), int(args["head_size"])
        cos, sin = cache[_tensor(args, "positions")].double().unsqueeze(1).chunk(2, dim=-1)
        outputs = {}
        for name in ("query", "key"):
            x = _tensor(args, name)
            heads = x.double().reshape(x.shape[0], x.shape[1] // head_size, head_size)
            if args["is_neox"]:
                a, b = heads.chunk(2, dim=-1)
                rotated = torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
            else:
                a, b = heads[..., ::2], heads[..., 1::2]
                rotated = torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1)
            outputs[name] = rotated.reshape(x.shape)
        return outputs

    def groups(self, args: Mapping[str, Value]) -> dict[str, dict[str, torch.Tensor]]:
        found = {}
        for name in ("query", "key"):
            (tokens, width), device = _tensor(args, name).shape, _tensor(args, name).device
            found[name] = {"head": torch.arange(width // int(args["head_size"]), device=device).repeat(tokens)}
        return found

    def unused(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        """Rows of the cache that no token names."""
        cache = _tensor(args, "cos_sin_cache")
        mask = torch.ones(len(cache), 1, dtype=torch.bool, device=cache.device)
        mask[_tensor(args, "positions")] = False
        return {"cos_sin_cache": mask}

    def perturbed(self, args: Mapping[str, Value], rng: random.Random) -> dict[str, dict[str, Value]]:
        """One token moves by half of the cache."""
        positions, limit = _tensor(args, "positions").clone(), len(_tensor(args, "cos_sin_cache"))
        if not len(positions) or limit < 2:
            return {}
        token = rng.randrange(len(positions))
        positions[token] = (positions[token] + limit // 2) % limit
        return {"the position of one token": {**args, "positions": positions}}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        sizes = workload.sizes
        elements = sizes["T"] * (sizes["q"] + sizes["kv"]) * sizes["d"]
        rows = torch.unique(_tensor(args, "positions")).numel()
        traffic = 2 * elements * getattr(torch, workload.dtype).itemsize + 8 * sizes["T"] + 4 * rows * sizes["d"]
        return Cost(bytes=traffic, flops=3 * elements)


def _positions(draw: Draw, tokens: int, limit: int, run: int) -> torch.Tensor:
    """Runs of `run` consecutive positions from random starts: single tokens of a decode batch, or packed prompts and chunks."""
    run = min(run, limit)
    token = torch.arange(tokens)
    starts = torch.randint(limit - run + 1, (tokens // run + 1,), generator=draw.host)
    starts[0] = limit - run
    return (starts[token // run] + token % run).to(draw.device)


def _cache(draw: Draw, limit: int, head_size: int, theta: float) -> torch.Tensor:
    """Cosines and sines by position, float32.

    Base and magnitude vary around the model's own, as YaRN and its kin scale them: a kernel that computes the angles itself instead
    of reading the cache fails.
    """
    stretch, magnitude = torch.rand(2, generator=draw.host, dtype=torch.float64).tolist()
    base = theta * math.exp2(2 * stretch - 1)
    rate = base ** -(torch.arange(0, head_size, 2, dtype=torch.float64, device=draw.device) / head_size)
    angle = torch.arange(limit, dtype=torch.float64, device=draw.device).unsqueeze(1) * rate
    return torch.cat((angle.cos(), angle.sin()), dim=-1).mul_(1 + 0.35 * magnitude).float()


def _tensor(args: Mapping[str, Value], name: str) -> torch.Tensor:
    value = args[name]
    assert isinstance(value, torch.Tensor)
    return value


TASK = Rope()
