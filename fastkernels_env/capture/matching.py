"""Which task mirrors an observed op, and with which sizes: decided here alone.

An op is what one call in a model did, in plain data: no torch object is needed to ask. `match` answers for ops of any origin: a
recorded call, a shape worked out by hand, or an entry of a coverage table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import msgspec

MOST_LINEAR_ROWS = 64
"""Rows up to which a linear layer is bound by its weight: the range of `linear_decode`."""
_BLOCKS = (16, 128)
"""Smallest and largest number of slots in a block of the grouped product."""
PAGE = 16
"""Tokens in a page of the key-value cache, as in `gqa_decode`."""
_ROOM = 4 / 3
"""Pages of a cache for each page in use."""
_RANKS = 2
"""Ranks of the tasks that several GPUs run together."""


class TensorSpec(msgspec.Struct, frozen=True):
    """Shape, dtype (torch name) and strides (in elements) of a tensor."""

    shape: tuple[int, ...]
    dtype: str
    stride: tuple[int, ...] = ()


class Op(msgspec.Struct, frozen=True, kw_only=True):
    """One observed call.

    Attributes:
        op: ``rms_norm``, ``add_rms_norm``, ``layer_norm``, ``silu_and_mul``, ``gelu_tanh_and_mul``, ``linear``, ``rope``, ``attention``,
            ``experts``, or a custom op's own name (``_C::rms_norm``).
        module: Class of the module that made the call; empty for a function.
        path: Where it sits in the model, with layer numbers as ``*``.
        tensors: By the name of their role; see `match`.
        numbers: What shapes do not say: ``kv_heads``, ``top_k``, ``theta`` and the like; flags are 0 or 1.
        part: Of a linear layer or a norm: ``qkv``, ``out``, ``gate-up``, ``down``, ``router``, ``head``, or the module's own name.
    """

    op: str
    module: str = ""
    path: str = ""
    tensors: dict[str, TensorSpec] = {}
    numbers: dict[str, float] = {}
    part: str = ""


class Layout(msgspec.Struct, frozen=True):
    """How a model is spread over GPUs.

    Attributes:
        tensor: Ranks of tensor parallelism; the shapes of an op are those of one rank.
        sequence: Whether rows are split between those ranks outside of the projections (sequence parallelism).
        experts: Ranks of expert parallelism; tokens are those of one rank, experts those of all.
    """

    tensor: int = 1
    sequence: bool = False
    experts: int = 1


class Match(msgspec.Struct, frozen=True, kw_only=True):
    """A task's workload, as far as one op says.

    Attributes:
        fixed: Names of sizes that the model fixes; the others follow the traffic.
        part: As in `Op`, or which of the products of an expert layer.
    """

    task: str
    dtype: str
    sizes: dict[str, int]
    params: dict[str, float] = {}
    fixed: tuple[str, ...]
    part: str = ""


def match(op: Op, layout: Layout | None = None) -> list[Match]:
    """The workloads of tasks that an op is a call of; none if no task mirrors it.

    Roles of tensors: ``input`` (norms ``[..., H]``, activation ``[..., 2*I]``, linear ``[..., K]``, experts ``[T, H]``), ``half`` (of an
    activation's input, ``[..., I]``), ``weight`` (linear ``[N, K]``), ``query`` and ``key`` (``[batch, heads, length, d]``), ``w13`` and
    ``w2`` (experts ``[E, 2*I, H]`` and ``[E, H, I]``).

    Args:
        op: The call.
        layout: How the model is spread; one GPU if None.
    """
    rule = _RULES.get(op.op)
    return rule(op, layout or Layout()) if rule else []


def _rows(spec: TensorSpec) -> int:
    return math.prod(spec.shape[:-1])


def _rms_norm(op: Op, layout: Layout) -> list[Match]:
    spec = op.tensors["input"]
    sizes = {"T": _rows(spec), "H": spec.shape[-1]}
    fixed: tuple[str, ...] = ("H",)
    if len(spec.stride) > 1 and spec.stride[-1] == 1 and spec.stride[-2] > sizes["H"]:
        sizes["row_stride"] = spec.stride[-2]
        fixed += ("row_stride",)
    return [Match(task="rms_norm", dtype=spec.dtype, sizes=sizes, fixed=fixed, part=op.part)]


def _add_rms_norm(op: Op, layout: Layout) -> list[Match]:
    spec = op.tensors["input"]
    task = "allreduce_add_rms_norm" if layout.tensor == _RANKS and not layout.sequence else "fused_add_rms_norm"
    return [Match(task=task, dtype=spec.dtype, sizes={"T": _rows(spec), "H": spec.shape[-1]}, fixed=("H",))]


def _layer_norm(op: Op, layout: Layout) -> list[Match]:
    spec = op.tensors["input"]
    return [Match(task="layer_norm", dtype=spec.dtype, sizes={"T": _rows(spec), "H": spec.shape[-1]}, fixed=("H",))]


def _gated(op: Op, layout: Layout) -> list[Match]:
    """The activation of a gated MLP; ``op`` is the name of its task."""
    if "half" in op.tensors:
        spec, width = op.tensors["half"], op.tensors["half"].shape[-1]
    else:
        spec, width = op.tensors["input"], op.tensors["input"].shape[-1] // 2
    return [Match(task=op.op.removeprefix("_C::"), dtype=spec.dtype, sizes={"T": _rows(spec), "I": width}, fixed=("I",))]


def _linear(op: Op, layout: Layout) -> list[Match]:
    spec, (width, depth) = op.tensors["input"], op.tensors["weight"].shape
    rows = _rows(spec)
    if layout.sequence and layout.tensor == _RANKS and op.part in _PARALLEL and rows % _RANKS == 0:
        sizes = {"T": rows // _RANKS, "N": width, "K": depth}
        return [Match(task=_PARALLEL[op.part], dtype=spec.dtype, sizes=sizes, fixed=("N", "K"), part=op.part)]
    if rows > MOST_LINEAR_ROWS:
        return []
    return [Match(task="linear_decode", dtype=spec.dtype, sizes={"M": rows, "N": width, "K": depth}, fixed=("N", "K"), part=op.part)]


_PARALLEL = {"qkv": "allgather_gemm", "gate-up": "allgather_gemm", "out": "gemm_reduce_scatter", "down": "gemm_reduce_scatter"}


def _rope(op: Op, layout: Layout) -> list[Match]:
    """``numbers``: ``rotary`` (channels that turn; all of a head if absent), ``theta``, ``neox``, ``positions`` (rows of the cache),
    ``sequences`` (of the step), ``packed`` (1 if query and key are slices of qkv rows).
    """
    query, key, numbers = op.tensors["query"], op.tensors["key"], op.numbers
    batch, heads, length, width = query.shape
    if numbers.get("rotary", width) != width:
        return []
    kv_heads, tokens = key.shape[1], batch * length
    sizes = {"T": tokens, "q": heads, "kv": kv_heads, "d": width, "P": int(numbers.get("positions", 8192))}
    if numbers.get("packed"):
        sizes["row_stride"] = (heads + 2 * kv_heads) * width
    run = max(int(tokens // max(numbers.get("sequences", batch), 1)), 1)
    params = {"theta": numbers.get("theta", 10000.0), "neox": numbers.get("neox", 1), "run": float(run)}
    return [Match(task="rope", dtype=query.dtype, sizes=sizes, params=params, fixed=tuple(s for s in sizes if s != "T"))]


def _attention(op: Op, layout: Layout) -> list[Match]:
    """``numbers``: ``kv_heads``; ``plain`` (0 if there are sinks, a window or a latent cache); of the lengths in the cache ``median``,
    ``sigma`` (of their logarithm), ``low``, ``high``, ``mean``.
    """
    numbers = op.numbers
    batch, heads, length, width = op.tensors["query"].shape
    if length != 1 or not numbers.get("plain", 1) or "median" not in numbers or batch == 0:
        return []
    pool = max(round(numbers["mean"] / PAGE * _ROOM / 16), 1) * 16
    sizes = {"B": batch, "q": heads, "kv": int(numbers["kv_heads"]), "d": width, "page": PAGE, "pool": pool}
    params = {name: numbers[name] for name in ("median", "sigma", "low", "high")}
    dtype = op.tensors["query"].dtype
    return [Match(task="gqa_decode", dtype=dtype, sizes=sizes, params=params, fixed=("q", "kv", "d", "page"))]


def _experts(op: Op, layout: Layout) -> list[Match]:
    """``numbers``: ``top_k``, ``silu`` (1 if the activation is a plain SiLU gate), ``zipf`` (skew of the routing, if it was seen)."""
    spec, numbers = op.tensors["input"], op.numbers
    if not numbers.get("silu"):
        return []
    experts, width, inner = op.tensors["w2"].shape
    tokens, top_k = _rows(spec), int(numbers["top_k"])
    skew = {"zipf": numbers["zipf"]} if "zipf" in numbers else {}
    if layout.experts == _RANKS:
        sizes = {"T": tokens, "H": width, "E": experts, "K": top_k}
        return [Match(task="moe_dispatch", dtype=spec.dtype, sizes=sizes, params=skew, fixed=("H", "E", "K"))]
    block = expert_block(tokens * top_k / experts)
    shared = {"T": tokens, "k": top_k, "E": experts}
    up = {**shared, "N": 2 * inner, "K": width, "block": block, "down": 0}
    down = {**shared, "N": width, "K": inner, "block": block, "down": 1}
    fixed = ("k", "E", "N", "K", "down")
    return [
        Match(
            task="fused_experts", dtype=spec.dtype, sizes={**shared, "H": width, "I": inner}, params=skew, fixed=("k", "E", "H", "I")
        ),
        Match(task="moe_gemm", dtype=spec.dtype, sizes=up, params=skew, fixed=fixed, part="up"),
        Match(task="moe_gemm", dtype=spec.dtype, sizes=down, params={**skew, "mul_routed_weight": 1.0}, fixed=fixed, part="down"),
        Match(task="silu_and_mul", dtype=spec.dtype, sizes={"T": tokens * top_k, "I": inner}, fixed=("I",), part="experts"),
        Match(task="moe_finalize", dtype=spec.dtype, sizes={"T": tokens, "k": top_k, "H": width}, fixed=("k", "H")),
    ]


def expert_block(rows: float) -> int:
    """Slots in a block of the grouped product, for so many rows an expert on average: it grows with their square root."""
    wanted = 8 * math.sqrt(max(rows, 1.0))
    low, high = _BLOCKS
    return min(max(1 << math.ceil(math.log2(wanted)), low), high)


def _custom(rule: Callable[[Op, Layout], list[Match]], **roles: str) -> Callable[[Op, Layout], list[Match]]:
    """The rule for a custom op, whose arguments have names of their own."""

    def renamed(op: Op, layout: Layout) -> list[Match]:
        if any(name not in op.tensors for name in roles.values()):
            return []
        tensors = {**op.tensors, **{role: op.tensors[name] for role, name in roles.items()}}
        return rule(msgspec.structs.replace(op, tensors=tensors), layout)

    return renamed


def _flat_rope(op: Op, layout: Layout) -> list[Match]:
    """Query and key as rows ``[T, heads * d]``, as serving engines have them; ``numbers["head_size"]`` says d."""
    width = int(op.numbers.get("head_size", 0))
    query, key = op.tensors["query"], op.tensors["key"]
    if not width or len(query.shape) != 2:
        return []
    matches = _rope(msgspec.structs.replace(op, tensors={"query": _heads(query, width), "key": _heads(key, width)}), layout)
    stride = query.stride[0] if query.stride else query.shape[1]
    strided = {"row_stride": stride} if stride > query.shape[1] else {}
    return [
        msgspec.structs.replace(m, sizes={**m.sizes, **strided}, fixed=(*m.fixed, *strided)) for m in matches
    ]


def _heads(spec: TensorSpec, width: int) -> TensorSpec:
    return TensorSpec((spec.shape[0], spec.shape[1] // width, 1, width), spec.dtype)


_RULES: Mapping[str, Callable[[Op, Layout], list[Match]]] = {
    "rms_norm": _rms_norm,
    "add_rms_norm": _add_rms_norm,
    "layer_norm": _layer_norm,
    "silu_and_mul": _gated,
    "gelu_tanh_and_mul": _gated,
    "linear": _linear,
    "rope": _rope,
    "attention": _attention,
    "experts": _experts,
    "_C::rms_norm": _rms_norm,
    "_C::fused_add_rms_norm": _add_rms_norm,
    "_C::silu_and_mul": _gated,
    "_C::gelu_tanh_and_mul": _gated,
    "_C::rotary_embedding": _custom(_flat_rope, query="query", key="key"),
}

COVERED_BY: Mapping[str, str] = {"_C::rms_norm": "rms_norm", "_C::fused_add_rms_norm": "rms_norm", "_C::silu_and_mul": "silu_and_mul"}
"""Kind of the module inside of which a custom op is that module's own way to compute, and no further call."""

TASKS: Mapping[str, tuple[str, ...]] = {
    "rms_norm": ("rms_norm",),
    "add_rms_norm": ("fused_add_rms_norm", "allreduce_add_rms_norm"),
    "layer_norm": ("layer_norm",),
    "silu_and_mul": ("silu_and_mul",),
    "gelu_tanh_and_mul": ("gelu_tanh_and_mul",),
    "linear": ("linear_decode", "allgather_gemm", "gemm_reduce_scatter"),
    "rope": ("rope",),
    "attention": ("gqa_decode",),
    "experts": ("fused_experts", "moe_gemm", "silu_and_mul", "moe_finalize", "moe_dispatch"),
}
"""Tasks that may mirror an op, whatever its sizes and layout."""


def op_of_module(name: str) -> str:
    """The op that a module's class stands for by its name alone; empty if the name says nothing.

    Args:
        name: Class name, such as ``LlamaRMSNorm``.
    """
    if "Norm" in name:
        return "rms_norm" if "RMSNorm" in name and "Gated" not in name else "norm"
    if name == "SiluAndMul":
        return "silu_and_mul"
    if name.endswith("Attention"):
        return "attention"
    if name.endswith("Experts"):
        return "experts"
    if name.endswith(("Router", "TopkRouter", "Linear")):
        return "linear"
    return ""
