"""Calls of several cases inside one arena, which share their weights: written and compared by the judge, run by a worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from ..device import Arena
from ..protocol import ArgValue, TensorRef
from ..task import Role, Task
from .cases import Case
from .layout import ALIGNMENT, GUARD, extent_of, tensor_ref, view_of
from .verify import poison_, same_bytes

_RUBBISH = float("nan")


class _Call(NamedTuple):
    refs: dict[str, TensorRef]
    arguments: list[ArgValue]


class Slots:
    """Where the arguments of a list of calls lie.

    Args:
        task: Gives the signature.
        cases: One per call, private to the judge; they have the same weights. Cases of one shape may be written over each other.
        shift: Every address lies that many steps further on.

    Attributes:
        size: Bytes that the arena must have, for each rank.
    """

    def __init__(self, task: Task, cases: Sequence[Case], shift: int = 0) -> None:
        self.task = task
        self._calls: list[_Call] = []
        self.size = shift * ALIGNMENT
        weights: dict[str, TensorRef] = {}
        for case in cases:
            self._calls.append(self._place(case, weights))

    def _place(self, case: Case, weights: dict[str, TensorRef]) -> _Call:
        refs: dict[str, TensorRef] = {}
        arguments: list[ArgValue] = []
        ends = [self.size] * self.task.ranks
        for arg in self.task.signature:
            if arg.role is Role.SCALAR:
                value = case.args[arg.name]
                assert not isinstance(value, torch.Tensor)
                arguments.append(value)
                continue
            ref = weights.get(arg.name) or tensor_ref(arg, case.workload, ends[arg.rank] + GUARD)
            if arg.role is Role.WEIGHT:
                weights[arg.name] = ref
            ends[arg.rank] = max(ends[arg.rank], ref.offset + extent_of(ref) + GUARD)
            refs[arg.name] = ref
            arguments.append(ref)
        self.size = max(ends)
        return _Call(refs, arguments)

    @property
    def calls(self) -> list[list[ArgValue]]:
        """Argument lists, for a worker that has the arena attached as number 0."""
        return [call.arguments for call in self._calls]

    def view(self, arena: Arena, index: int, name: str) -> torch.Tensor:
        """One argument of one call: live memory."""
        return view_of(arena.view, self._calls[index].refs[name])

    def write(self, arena: Arena, index: int, case: Case, *, poison: int = 0, late: bool = False, weights: bool = False) -> None:
        """Write a case's inputs into a call's buffers and poison its outputs.

        Args:
            arena: Where the buffers lie.
            index: Which call.
            case: Of the call's shape.
            poison: Which of the two poisons.
            late: Rubbish in place of floating-point activations, whose values come later.
            weights: Also the weights, which all calls share.
        """
        for arg in self.task.signature:
            if arg.role is Role.SCALAR or (arg.role is Role.WEIGHT and not weights):
                continue
            view, value = self.view(arena, index, arg.name), case.args.get(arg.name)
            if arg.role is Role.OUTPUT:
                poison_(view, poison)
            elif late and arg.role in (Role.INPUT, Role.INOUT) and view.is_floating_point():
                view.fill_(_RUBBISH)
            elif isinstance(value, torch.Tensor):
                view.copy_(value)

    def outputs(self, arena: Arena, index: int) -> dict[str, torch.Tensor]:
        """Private copies of a call's outputs, by name: all that is said of them must be said of the same bytes."""
        return {arg.name: self.view(arena, index, arg.name).clone() for arg in self.task.outputs}

    def modified(self, arena: Arena, index: int, case: Case) -> str:
        """The name of an argument that is read-only and no longer holds its bytes; empty if there is none."""
        for arg in self.task.signature:
            value = case.args.get(arg.name)
            if arg.role in (Role.OUTPUT, Role.INOUT) or not isinstance(value, torch.Tensor) or not value.numel():
                continue
            if not same_bytes(self.view(arena, index, arg.name), value):
                return arg.name
        return ""
