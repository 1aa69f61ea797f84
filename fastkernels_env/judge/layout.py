"""Where the buffers of a set of calls lie inside an arena: aligned, with canary bytes on both sides of each."""

from __future__ import annotations

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
    """The buffers of one call: references by argument name, and scalars."""

    refs: dict[str, TensorRef]
    arguments: list[ArgValue]


class Layout(NamedTuple):
    """Slots of several calls and the bytes they need."""

    slots: list[Slot]
    size: int


def plan_layout(task: Task, workload: Workload, values: Sequence[Mapping[str, Value]]) -> Layout:
    """Place the arguments of ``len(values)`` calls of one workload.

    Args:
        task: Gives the signature.
        workload: Completed sizes and dtype.
        values: Per call, at least the scalar arguments' values.
    """
    position, slots = 0, []
    for call in values:
        refs: dict[str, TensorRef] = {}
        arguments: list[ArgValue] = []
        for arg in task.signature:
            if arg.role is Role.SCALAR:
                value = call[arg.name]
                assert not isinstance(value, torch.Tensor)
                arguments.append(value)
            else:
                refs[arg.name] = tensor_ref(arg, workload, position + GUARD)
                position = _aligned(refs[arg.name].offset + extent_of(refs[arg.name]) + GUARD)
                arguments.append(refs[arg.name])
        slots.append(Slot(refs, arguments))
    return Layout(slots, position)


def tensor_ref(arg: Arg, workload: Workload, offset: int) -> TensorRef:
    """Reference of one argument at the first aligned byte from `offset` on."""
    return TensorRef(0, _aligned(offset), shape_of(arg, workload.sizes), strides_of(arg, workload.sizes), dtype_of(arg, workload))


def extent_of(ref: TensorRef) -> int:
    """Bytes from the first to the last element, gaps of a strided view included."""
    if not all(ref.shape):
        return 0
    elements = 1 + sum((size - 1) * stride for size, stride in zip(ref.shape, ref.strides, strict=True))
    return elements * int(getattr(torch, ref.dtype).itemsize)


def view_of(memory: torch.Tensor, ref: TensorRef) -> torch.Tensor:
    """The strided tensor at a reference in `memory` (uint8, 1-D)."""
    dtype = getattr(torch, ref.dtype)
    if not all(ref.shape):
        return torch.empty_strided(ref.shape, ref.strides, dtype=dtype, device=memory.device)
    flat = memory[ref.offset : ref.offset + extent_of(ref)].view(dtype)
    return flat.as_strided(ref.shape, ref.strides)


def _aligned(position: int) -> int:
    return -(-position // ALIGNMENT) * ALIGNMENT
