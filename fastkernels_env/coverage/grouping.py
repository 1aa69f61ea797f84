"""Calls gathered into the kernels that production would launch, each with its task and its compulsory traffic."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

import msgspec

from .attribution import ACTIVATIONS, FREE, NEW_ROWS, PICKED, WEIGHT, Place, place
from .observations import Call

_FEED_FORWARD = re.compile("MLP|Mlp|FeedForward|FFN|Ffn|GLU|Dense(Gated)?Act|Intermediate|Expert|^.*FF$")
_ACTS_AND_MULS = {"silu": "silu_and_mul", "gelu": "gelu_tanh_and_mul"}
_NORMS = {"rms_norm": "fused_add_rms_norm", "fused_add_rms_norm": "fused_add_rms_norm", "layer_norm": "layer_norm"}
_CONVOLUTIONS = ("conv2d_nhwc", "dwconv_bn_act", "conv3d_patchify", "conv1d", "conv3d", "conv_transpose")
_HOSTS = frozenset((
    "rms_norm", "fused_add_rms_norm", "layer_norm", "silu_and_mul", "gelu_tanh_and_mul", "activation", "rope", "mrope", "gated_rms_norm",
    "group_norm_silu", "fused_experts", "topk_softmax", "grouped_topk",
))
"""Kernels bound by memory, into which a compiler draws the elementwise work beside them."""
_ACTIVATION_CLASS = re.compile("Activation|GELU|SiLU|ReLU|Sigmoid|Tanh|Mish|Swish|Softplus|ELU|^gelu[(]")
_WRITTEN_OUT = re.compile("GELU|ReLUSquared|^gelu[(]")
"""Modules and functions that make one of the activation task's functions out of other operators."""
_ACTIVATION = re.compile(ACTIVATIONS)


class Kernel(msgspec.Struct, kw_only=True):
    """What production would launch at once."""

    task: str
    bytes: float = 0.0
    flops: float = 0.0
    dtype: str = "bfloat16"
    weight: float = 1.0
    """How often the step runs it."""
    ops: tuple[str, ...] = ()


def kernels_of(calls: Sequence[Call], step: str) -> list[Kernel]:
    """Gather the calls of a step."""
    places = [place(call, step) for call in calls]
    readers, writer = _flow(calls)
    places = _gate(calls, places)
    owners = [_owner(i, call, p) for i, (call, p) in enumerate(zip(calls, places, strict=True))]
    _adopt(calls, places, owners, readers, writer)
    groups: dict[object, list[int]] = defaultdict(list)
    for i, owner in enumerate(owners):
        if places[i].charge != FREE:
            groups[owner].append(i)
    return [_kernel(members, calls, places, owners, readers) for members in groups.values()]


def _flow(calls: Sequence[Call]) -> tuple[dict[int, list[int]], dict[tuple[int, int], int]]:
    """Who reads each memory; and, of each read, which earlier call wrote it."""
    readers: dict[int, list[int]] = defaultdict(list)
    writer: dict[tuple[int, int], int] = {}
    last: dict[int, int] = {}
    for i, call in enumerate(calls):
        for read in call.reads:
            readers[read.storage].append(i)
            if read.storage in last:
                writer[i, read.storage] = last[read.storage]
        for write in call.writes:
            last[write.storage] = i
    return readers, writer


def _owner(index: int, call: Call, where: Place) -> object:
    return index if where.scope is None else (where.task, call.serials[where.scope], call.scopes[where.scope])


def _gate(calls: Sequence[Call], places: list[Place]) -> list[Place]:
    """Name the activations of feed-forward parts: with a product of two halves, or alone."""
    acts: dict[tuple[int, int], set[str]] = defaultdict(set)
    gated: set[tuple[int, int]] = set()
    where: dict[int, tuple[int, int]] = {}
    for i, (call, p) in enumerate(zip(calls, places, strict=True)):
        scope = next((j for j in reversed(range(len(call.scopes))) if _FEED_FORWARD.search(call.scopes[j])), None)
        if p.task != "elementwise" or scope is None:
            continue
        key = where[i] = (scope, call.serials[scope])
        part = next((name for name in call.scopes[scope + 1:] if _ACTIVATION_CLASS.search(name)), "")
        if part or _ACTIVATION.fullmatch(call.op):
            acts[key].add(_kind(part, call.op))
        elif call.op == "mul" and len(call.reads) == 2 and call.reads[0].bytes == call.reads[1].bytes:
            gated.add(key)
    result = list(places)
    for i, key in where.items():
        kind = next((k for k in _ACTS_AND_MULS if k in acts[key]), "")
        if kind and key in gated:
            result[i] = Place(_ACTS_AND_MULS[kind], key[0])
        elif acts[key]:
            result[i] = Place("activation", key[0])
    return [_as_activation(call, p) if p.task == "elementwise" else p for call, p in zip(calls, result, strict=True)]


def _as_activation(call: Call, where: Place) -> Place:
    """The place of an elementwise call outside of feed-forward parts: all of a function that is written out is one kernel."""
    written_out = next((j for j, name in enumerate(call.scopes) if _WRITTEN_OUT.search(name)), None)
    return Place("activation", written_out) if written_out is not None or _ACTIVATION.fullmatch(call.op) else where


def _kind(part: str, op: str) -> str:
    """An activation's kind, by its module's class or else by its operator."""
    if "Quick" in part:
        return "quick_gelu"
    for kind in ("silu", "gelu"):
        if kind in part.lower() or kind == op:
            return kind
    return part or op


def _adopt(
    calls: Sequence[Call], places: list[Place], owners: list[object], readers: dict[int, list[int]], writer: dict[tuple[int, int], int],
) -> None:
    """Let elementwise calls join the kernel before or behind them, as a compiler or an epilogue does."""
    for i, call in enumerate(calls):
        if _loose(call, places[i]):
            convolution = next((j for j in _before(i, call, writer) if places[j].task in _CONVOLUTIONS), None)
            if convolution is not None:
                places[i], owners[i] = Place(places[convolution].task), owners[convolution]
    for i in reversed(range(len(calls))):
        if not _loose(calls[i], places[i]):
            continue
        behind = [j for w in calls[i].writes for j in readers[w.storage] if j > i]
        norm = next((j for j in behind if places[j].task in _NORMS), None)
        host = next((j for j in (*behind, *_before(i, calls[i], writer)) if places[j].task in _HOSTS), None)
        if norm is not None:
            task = _NORMS[places[norm].task] if calls[i].op == "add" else places[norm].task
            _rename(places, owners, owners[norm], task)
            places[i], owners[i] = Place(task), owners[norm]
        elif places[i].task == "elementwise" and host is not None:
            places[i], owners[i] = Place(places[host].task), owners[host]


def _loose(call: Call, where: Place) -> bool:
    return where.task in ("elementwise", "activation", "batch_norm") and where.charge != FREE


def _before(index: int, call: Call, writer: dict[tuple[int, int], int]) -> list[int]:
    return [writer[index, r.storage] for r in call.reads if writer.get((index, r.storage), index) != index]


def _rename(places: list[Place], owners: list[object], owner: object, task: str) -> None:
    for j, other in enumerate(owners):
        if other == owner:
            places[j] = Place(task, places[j].scope, places[j].charge)


def _kernel(
    members: list[int], calls: Sequence[Call], places: Sequence[Place], owners: Sequence[object], readers: dict[int, list[int]],
) -> Kernel:
    """A kernel's traffic: what it reads that it did not write, and what it writes that others read, or nobody (a result)."""
    owner = owners[members[0]]
    weight = min(calls[i].weight for i in members)
    reads: dict[int, float] = {}
    writes: dict[int, float] = {}
    own: set[int] = set()
    flops = new_rows = 0.0
    for i in members:
        call, share = calls[i], calls[i].weight / weight
        flops += call.flops * share
        if places[i].charge == NEW_ROWS:
            new_rows += 2 * min((r.bytes for r in call.reads if r.bytes), default=0) * share
            continue
        if places[i].charge == PICKED:
            new_rows += 2 * sum(w.bytes for w in call.writes) * share
            continue
        if places[i].charge == WEIGHT:
            new_rows += min((r.bytes for r in call.reads), default=0) * share
            flops -= call.flops * share
            continue
        for read in call.reads:
            if read.storage not in own:
                reads[read.storage] = max(reads.get(read.storage, 0.0), read.bytes * share)
        for write in call.writes:
            own.add(write.storage)
            if any(owners[j] != owner for j in readers[write.storage]) or not readers[write.storage]:
                writes[write.storage] = max(writes.get(write.storage, 0.0), write.bytes * share)
    first = calls[members[0]]
    dtype = next((calls[i].dtype for i in members if calls[i].flops), first.dtype)
    return Kernel(
        task=places[members[0]].task, bytes=sum(reads.values()) + sum(writes.values()) + new_rows, flops=flops, dtype=dtype, weight=weight,
        ops=tuple(dict.fromkeys(calls[i].op for i in members)),
    )
