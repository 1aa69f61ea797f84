"""Where the buffers of a set of calls lie inside an arena: with canary bytes on both sides of each, aligned, or on secret offsets."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from ..protocol import ArgValue, TensorRef
from ..task import Arg, Role, Task, Workload, dtype_of, shape_of, strides_of

if TYPE_CHECKING:
    from ..task import Value

ALIGNMENT = 256
GUARD = 256
"""Canary bytes before and after every buffer."""


class Slot(NamedTuple):
    """The buffers of one call: references by argument name, scalars, and the bytes of the arena (of each rank's part) that are its own."""

    refs: dict[str, TensorRef]
    arguments: list[ArgValue]
    start: int
    end: int


class Layout(NamedTuple):
    """Slots of several calls and the bytes they need, for each rank."""

    slots: list[Slot]
    size: int


def plan_layout(task: Task, workload: Workload, values: Sequence[Mapping[str, Value]], seed: int | None = None) -> Layout:
    """Place the arguments of ``len(values)`` calls of one workload; see `plan_calls`."""
    return plan_calls(task, [(workload, call) for call in values], seed)


def plan_calls(
    task: Task, calls: Sequence[tuple[Workload, Mapping[str, Value]]], seed: int | None = None, share_weights: bool = False
) -> Layout:
    """Place the arguments of several calls.

    Args:
        task: Gives the signature.
        calls: Workload (completed sizes and dtype) and argument values of each call; of tensors only their identity is looked at.
        seed: Buffers start at offsets drawn from it, which keep `Task.alignment` and nothing more; None: all at `ALIGNMENT`.
        share_weights: Weights that are the same tensor in two calls lie in one place, as in production.
    """
    rng = random.Random(seed) if seed is not None else None
    placed: dict[tuple[str, int], TensorRef] = {}
    position, slots = 0, []
    for workload, call in calls:
        start = position
        ends = [start] * task.ranks
        refs: dict[str, TensorRef] = {}
        arguments: list[ArgValue] = []
        for arg in task.signature:
            if arg.role is Role.SCALAR:
                value = call[arg.name]
                assert not isinstance(value, torch.Tensor)
                arguments.append(value)
                continue
            known = (arg.name, id(call.get(arg.name)))
            if share_weights and arg.role is Role.WEIGHT and known in placed:
                refs[arg.name] = placed[known]
            else:
                shift = task.alignment * rng.randrange(ALIGNMENT // task.alignment) if rng else 0
                straight = tensor_ref(arg, workload, ends[arg.rank] + GUARD)
                refs[arg.name] = placed[known] = _shifted(straight, shift)
                # The room is the same whatever the shift, so that an arena fits both ways.
                ends[arg.rank] = _aligned(straight.offset + extent_of(straight) + GUARD) + ALIGNMENT
            arguments.append(refs[arg.name])
        position = max(ends)
        slots.append(Slot(refs, arguments, start, position))
    return Layout(slots, position)


def _shifted(ref: TensorRef, shift: int) -> TensorRef:
    return TensorRef(ref.arena, ref.offset + shift, ref.shape, ref.strides, ref.dtype, ref.rank)


def tensor_ref(arg: Arg, workload: Workload, offset: int) -> TensorRef:
    """Reference of one argument at the first aligned byte from `offset` on."""
    shape, strides = shape_of(arg, workload.sizes), strides_of(arg, workload.sizes)
    return TensorRef(0, _aligned(offset), shape, strides, dtype_of(arg, workload), arg.rank)


def extent_of(ref: TensorRef) -> int:
    """Bytes from the first to the last element, gaps of a strided view included."""
    if not all(ref.shape):
        return 0
    elements = 1 + sum((size - 1) * stride for size, stride in zip(ref.shape, ref.strides, strict=True))
    return elements * int(getattr(torch, ref.dtype).itemsize)


def part_of(memory: torch.Tensor, rank: int) -> torch.Tensor:
    """One rank's part of `memory` (uint8 ``[bytes]``, or ``[ranks, bytes]`` where there are several), 1-D."""
    return memory[rank] if memory.dim() > 1 else memory


def view_of(memory: torch.Tensor, ref: TensorRef) -> torch.Tensor:
    """The strided tensor at a reference in `memory` (see `part_of`)."""
    dtype = getattr(torch, ref.dtype)
    if not all(ref.shape):
        return torch.empty_strided(ref.shape, ref.strides, dtype=dtype, device=memory.device)
    flat = part_of(memory, ref.rank)[ref.offset : ref.offset + extent_of(ref)].view(dtype)
    return flat.as_strided(ref.shape, ref.strides)


def _aligned(position: int) -> int:
    return -(-position // ALIGNMENT) * ALIGNMENT
