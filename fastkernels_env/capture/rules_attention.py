"""Workloads of rotary embeddings, attention and its cache, as the rules beside this module give those of everything else."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from .ops import Layout, Match, Op, TensorSpec

PAGE = 16
"""Tokens in a page of the key-value cache, as in `gqa_decode`."""
_LATENT_PAGE = 64
"""The same of a cache of latents, as in `mla_decode`."""
_ROOM = 4 / 3
"""Pages of a cache for each page in use."""
_SPREAD = 0.7
"""Sigma of the logarithms of prompts' lengths in one step, where several share it: an assumption, since a step says their number alone."""


def rope(op: Op, layout: Layout) -> list[Match]:
    """``numbers``: ``rotary`` (channels that turn; all of a head if absent), ``theta``, ``neox``, ``positions`` (rows of the cache),
    ``sequences`` (of the step), ``packed`` (1 if query and key are slices of qkv rows), ``normed`` (1 if every head of both had an RMS
    norm before).
    """
    query, key, numbers = op.tensors["query"], op.tensors["key"], op.numbers
    batch, heads, length, width = query.shape
    kv_heads, tokens, turned = key.shape[1], batch * length, int(numbers.get("rotary", width))
    sizes = {"T": tokens, "q": heads, "kv": kv_heads, "d": width, "P": int(numbers.get("positions", 8192))}
    if numbers.get("packed"):
        sizes["row_stride"] = (heads + 2 * kv_heads) * width
    run = max(int(tokens // max(numbers.get("sequences", batch), 1)), 1)
    params = {"theta": numbers.get("theta", 10000.0), "neox": numbers.get("neox", 1), "run": float(run)}
    found = [Match(task="rope", dtype=query.dtype, sizes=sizes, params=params, fixed=tuple(s for s in sizes if s != "T"))]
    if numbers.get("normed"):
        sizes = {"T": tokens, "q": heads, "kv": kv_heads, "d": width, "rot": turned, "P": sizes["P"]}
        fused = Match(task="qk_norm_rope", dtype=query.dtype, sizes=sizes, params=params, fixed=tuple(s for s in sizes if s != "T"))
        found.append(fused)
    return found if turned == width else found[1:]


def attention(op: Op, layout: Layout) -> list[Match]:
    """``numbers``: ``kv_heads``; ``window`` (tokens that a query sees, 0 for all), ``sinks`` (1 if heads have them), ``latent`` (width of
    cached latents, 0 for none) and ``turned`` (that of their rotated part); ``causal``; ``cached`` (1 if keys go into a cache first);
    ``known`` (0 if a mask or other keys decide what is seen); of the lengths in the cache ``median``, ``sigma`` (of their logarithm),
    ``low``, ``high``, ``mean``; of the step ``sequences`` and ``rows`` (tokens).
    """
    if op.tensors["query"].shape[0] == 0 or not op.numbers.get("known", 1):
        return []
    found = _decode(op) if op.tensors["query"].shape[2] == 1 else _prompt(op)
    return found + _new_rows(op)


def _decode(op: Op) -> list[Match]:
    numbers, dtype = op.numbers, op.tensors["query"].dtype
    batch, heads, _, width = op.tensors["query"].shape
    if "median" not in numbers:
        return []
    params = {name: numbers[name] for name in ("median", "sigma", "low", "high")}
    if latent := int(numbers.get("latent", 0)):
        sizes = {"B": batch, "h": heads, "c": latent, "r": int(numbers["turned"]), "page": _LATENT_PAGE}
        sizes["pool"] = _pool(numbers["mean"], _LATENT_PAGE, 1)
        return [Match(task="mla_decode", dtype=dtype, sizes=sizes, params=params, fixed=("h", "c", "r", "page"))]
    sizes = {"B": batch, "q": heads, "kv": int(numbers["kv_heads"]), "d": width, "page": PAGE, "pool": _pool(numbers["mean"], PAGE, 16)}
    task, window = "gqa_decode", int(numbers.get("window", 0))
    if numbers.get("sinks"):
        task, params["window"] = "sink_attention", float(window - 1 if window else -1)
    elif window:
        return []
    return [Match(task=task, dtype=dtype, sizes=sizes, params=params, fixed=("q", "kv", "d", "page"))]


def _pool(mean: float, page: int, multiple: int) -> int:
    """Pages of the pool for each sequence, a multiple of a number."""
    return max(round(mean / page * _ROOM / multiple), 1) * multiple


def _prompt(op: Op) -> list[Match]:
    """Prompts that lie one after another, nothing cached before them."""
    numbers, (batch, heads, length, width) = op.numbers, op.tensors["query"].shape
    if any(numbers.get(name) for name in ("window", "sinks", "latent")):
        return []
    count = int(numbers.get("sequences", batch))
    mean = batch * length // count
    sizes = {"B": count, "mean": mean, "q": heads, "kv": int(numbers["kv_heads"]), "d": width, "page": PAGE, "pool": 1}
    params = {"sigma": _SPREAD if count > 1 else 0.0, "prefix": 0.0, "causal": numbers.get("causal", 1.0)}
    fixed = ("mean", "q", "kv", "d", "page", "pool")
    return [Match(task="gqa_prefill", dtype=op.tensors["query"].dtype, sizes=sizes, params=params, fixed=fixed)]


def _new_rows(op: Op) -> list[Match]:
    """Keys and values of the step's tokens on their way into the cache."""
    numbers, (batch, heads, length, width) = op.numbers, op.tensors["query"].shape
    if numbers.get("latent") or not numbers.get("cached"):
        return []
    tokens, kv_heads = int(numbers.get("rows", batch * length)), int(numbers["kv_heads"])
    run = max(tokens // max(int(numbers.get("sequences", batch)), 1), 1)
    sizes = {"T": tokens, "kv": kv_heads, "d": width, "page": PAGE, "run": run, "hnd": 0, "row_stride": (heads + 2 * kv_heads) * width}
    fixed = tuple(name for name in sizes if name != "T")
    return [Match(task="kv_scatter", dtype=op.tensors["query"].dtype, sizes=sizes, fixed=fixed)]


def custom(rule: Callable[[Op, Layout], list[Match]], **roles: str) -> Callable[[Op, Layout], list[Match]]:
    """The rule for a custom op, whose arguments have names of their own."""

    def renamed(op: Op, layout: Layout) -> list[Match]:
        if any(name not in op.tensors for name in roles.values()):
            return []
        tensors = {**op.tensors, **{role: op.tensors[name] for role, name in roles.items()}}
        return rule(msgspec.structs.replace(op, tensors=tensors), layout)

    return renamed


def flat_rope(op: Op, layout: Layout) -> list[Match]:
    """Query and key as rows ``[T, heads * d]``, as serving engines have them; ``numbers["head_size"]`` says d."""
    width = int(op.numbers.get("head_size", 0))
    query, key = op.tensors["query"], op.tensors["key"]
    if not width or len(query.shape) != 2:
        return []
    matches = rope(msgspec.structs.replace(op, tensors={"query": _heads(query, width), "key": _heads(key, width)}), layout)
    stride = query.stride[0] if query.stride else query.shape[1]
    strided = {"row_stride": stride} if stride > query.shape[1] else {}
    return [
        msgspec.structs.replace(m, sizes={**m.sizes, **strided}, fixed=(*m.fixed, *strided)) for m in matches
    ]


def _heads(spec: TensorSpec, width: int) -> TensorSpec:
    return TensorSpec((spec.shape[0], spec.shape[1] // width, 1, width), spec.dtype)
