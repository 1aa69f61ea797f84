"""Workloads of norms, activations, projections and experts: each rule takes an op and gives those that it is a call of.

Rules read the roles of tensors that `matching.match` lists; what else they need is in ``numbers``, as each says.
"""

from __future__ import annotations

import math

from .ops import Layout, Match, Op, TensorSpec

MOST_LINEAR_ROWS = 64
"""Rows up to which a linear layer is bound by its weight: the range of `linear_decode`."""
_BLOCKS = (16, 128)
"""Smallest and largest number of slots in a block of the grouped product."""
_RANKS = 2
"""Ranks of the tasks that several GPUs run together."""


def rows_of(spec: TensorSpec) -> int:
    """Tokens of a call."""
    return math.prod(spec.shape[:-1])


def rms_norm(op: Op, layout: Layout) -> list[Match]:
    """A norm, whose rows may be slices of wider ones."""
    spec = op.tensors["input"]
    sizes = {"T": rows_of(spec), "H": spec.shape[-1]}
    fixed: tuple[str, ...] = ("H",)
    if len(spec.stride) > 1 and spec.stride[-1] == 1 and spec.stride[-2] > sizes["H"]:
        sizes["row_stride"] = spec.stride[-2]
        fixed += ("row_stride",)
    return [Match(task="rms_norm", dtype=spec.dtype, sizes=sizes, fixed=fixed, part=op.part)]


def add_rms_norm(op: Op, layout: Layout) -> list[Match]:
    """A norm of a sum with the residual."""
    spec = op.tensors["input"]
    task = "allreduce_add_rms_norm" if layout.tensor == _RANKS and not layout.sequence else "fused_add_rms_norm"
    return [Match(task=task, dtype=spec.dtype, sizes={"T": rows_of(spec), "H": spec.shape[-1]}, fixed=("H",))]


def layer_norm(op: Op, layout: Layout) -> list[Match]:
    """A layer norm."""
    spec = op.tensors["input"]
    return [Match(task="layer_norm", dtype=spec.dtype, sizes={"T": rows_of(spec), "H": spec.shape[-1]}, fixed=("H",))]


def gated(op: Op, layout: Layout) -> list[Match]:
    """The activation of a gated MLP; ``op`` is the name of its task."""
    if "half" in op.tensors:
        spec, width = op.tensors["half"], op.tensors["half"].shape[-1]
    else:
        spec, width = op.tensors["input"], op.tensors["input"].shape[-1] // 2
    return [Match(task=op.op.removeprefix("_C::"), dtype=spec.dtype, sizes={"T": rows_of(spec), "I": width}, fixed=("I",))]


def linear(op: Op, layout: Layout) -> list[Match]:
    """A projection; between ranks where a sequence is split."""
    spec, (width, depth) = op.tensors["input"], op.tensors["weight"].shape
    rows = rows_of(spec)
    if layout.sequence and layout.tensor == _RANKS and op.part in _PARALLEL and rows % _RANKS == 0:
        sizes = {"T": rows // _RANKS, "N": width, "K": depth}
        return [Match(task=_PARALLEL[op.part], dtype=spec.dtype, sizes=sizes, fixed=("N", "K"), part=op.part)]
    task = "linear_decode" if rows <= MOST_LINEAR_ROWS else "linear_prefill"
    return [Match(task=task, dtype=spec.dtype, sizes={"M": rows, "N": width, "K": depth}, fixed=("N", "K"), part=op.part)]


_PARALLEL = {"qkv": "allgather_gemm", "gate-up": "allgather_gemm", "out": "gemm_reduce_scatter", "down": "gemm_reduce_scatter"}


def experts(op: Op, layout: Layout) -> list[Match]:
    """``numbers``: ``top_k``, ``silu`` (1 if the activation is a plain SiLU gate), ``zipf`` (skew of the routing, if it was seen)."""
    spec, numbers = op.tensors["input"], op.numbers
    if not numbers.get("silu"):
        return []
    experts, width, inner = op.tensors["w2"].shape
    tokens, top_k = rows_of(spec), int(numbers["top_k"])
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
        Match(task="moe_align", dtype="int32", sizes={**shared, "block": block}, params=skew, fixed=("k", "E")),
    ]


def expert_block(rows: float) -> int:
    """Slots in a block of the grouped product, for so many rows an expert on average: it grows with their square root."""
    wanted = 8 * math.sqrt(max(rows, 1.0))
    low, high = _BLOCKS
    return min(max(1 << math.ceil(math.log2(wanted)), low), high)


def router(op: Op, layout: Layout) -> list[Match]:
    """The choice of experts by a softmax over logits ``input [T, E]``. ``numbers``: ``top_k``, ``renormalize``."""
    spec, numbers = op.tensors["input"], op.numbers
    sizes = {"T": rows_of(spec), "E": spec.shape[-1], "k": int(numbers["top_k"])}
    params = {} if numbers.get("renormalize", 1) else {"renormalize": 0.0}
    return [Match(task="topk_softmax", dtype=spec.dtype, sizes=sizes, params=params, fixed=("E", "k"))]


def mlp(op: Op, layout: Layout) -> list[Match]:
    """A gated MLP with SiLU as a whole: ``input [..., H]``, ``down`` ``[H, I]``."""
    spec, (width, inner) = op.tensors["input"], op.tensors["down"].shape
    return [Match(task="llama_mlp", dtype=spec.dtype, sizes={"T": rows_of(spec), "H": width, "I": inner}, fixed=("H", "I"))]
