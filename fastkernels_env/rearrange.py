"""Exact re-randomisation: how the entries of a timing ring may change between two blocks so that every right answer stays known.

The judge keeps input sets and, once they are verified, the answers to them. Before every block a task deals their units (rows, sequences,
tokens) out anew over the slots of the ring and multiplies some of them by signs or powers of two. What an entry then answers is known
without its oracle: the same units of the known answers, times the same factors. `Task.rerandomise` says how; `Entries` holds what it needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

from . import _passes

_CHUNK = {"cpu": 1 << 20, "cuda": 1 << 28}
"""Bytes that are gathered at once: what stays in a core's cache, or what keeps a GPU busy."""
_MULTIPLIED = frozenset({torch.bfloat16, torch.float16, torch.float32, torch.float64})
"""What a GPU multiplies as it fills."""


class Rows(NamedTuple):
    """Where the units of one argument come from.

    A stack ``[sets, R, ...]`` is read as ``sets * U`` units of ``R / U`` consecutive rows each.

    Attributes:
        source: int64 ``[slots, U]``: unit ``set * U + u`` of the stack.
        factor: float32 ``[slots, U]``: signs and powers of two, exact in every floating dtype; None for ones.
        first: First element of the last dimension that is multiplied.
    """

    source: torch.Tensor
    factor: torch.Tensor | None = None
    first: int = 0

    def part(self, slots: slice | torch.Tensor) -> Rows:
        """Those of some slots."""
        return Rows(self.source[slots], None if self.factor is None else self.factor[slots], self.first)


class Rearrangement(NamedTuple):
    """What every slot holds, and what it must answer.

    Attributes:
        arguments: By name, for every argument but outputs, weights and scalars: units of the input sets, or values ``[slots, ...]``.
        outputs: By name, for every output and in-out argument: the same units of the answers to those sets.
    """

    arguments: dict[str, Rows | torch.Tensor]
    outputs: dict[str, Rows]


class Entries:
    """The slots of a ring before they are filled.

    Args:
        sizes: Of the workload, completed.
        stacks: Current values by argument name, ``[sets, ...]``.
        order: Set of every slot (int64 ``[slots]``).
        groups: Slots of one number may exchange units (int64 ``[slots]``): they share their weights, and blocks keep their work.
        kept: Slots that must hold their set as it is (bool ``[slots]``); everything below already obeys it.
        generator: Of the tensors' device.
    """

    def __init__(
        self, sizes: Mapping[str, int], stacks: Mapping[str, torch.Tensor], order: torch.Tensor, groups: torch.Tensor,
        kept: torch.Tensor, generator: torch.Generator,
    ) -> None:
        self.sizes, self.stacks, self.order, self.kept = sizes, stacks, order, kept
        self._groups, self._generator = groups, generator
        self.slots = len(order)

    def rows(self, units: int) -> torch.Tensor:
        """All units of exchangeable slots dealt out anew over them: int64 ``[slots, units]``, for `Rows`."""
        place = torch.arange(self.slots * units, device=self.order.device)
        groups = self._groups.repeat_interleave(units)
        keys = torch.where(self.kept.repeat_interleave(units), place / max(len(place), 1), self._random(len(place)))
        # A slot that is kept is alone in its group.
        dealt, places = (groups + keys).argsort(), groups.argsort(stable=True)
        units_of = (self.order[:, None] * units + torch.arange(units, device=self.order.device)).flatten()
        result = torch.empty_like(units_of)
        result[places] = units_of[dealt]
        return result.view(self.slots, units)

    def sets(self, units: int) -> torch.Tensor:
        """For every unit a set: the slots' sets dealt out anew, for each unit on its own (int64 ``[slots, units]``)."""
        dealt = (self._groups[:, None] + self._random(self.slots, units)).argsort(0)
        places = self._groups.argsort(stable=True)
        result = torch.empty_like(dealt)
        result[places] = self.order[dealt]
        return result

    def permutations(self, count: int) -> torch.Tensor:
        """A permutation for every slot (int64 ``[slots, count]``)."""
        rising = torch.arange(count, dtype=torch.float64, device=self.order.device).expand(self.slots, count)
        return torch.where(self.kept[:, None], rising, self._random(self.slots, count)).argsort(1)

    def signs(self, units: int) -> torch.Tensor:
        """1 or -1 (float32 ``[slots, units]``)."""
        signs = (self._random(self.slots, units) < 0.5).float().mul_(2).sub_(1)
        return torch.where(self.kept[:, None], torch.ones_like(signs), signs)

    def powers(self, units: int) -> torch.Tensor:
        """1/2, 1 or 2 (float32 ``[slots, units]``)."""
        powers = self._random(self.slots, units).mul_(3).floor_().sub_(1).exp2_().float()
        return torch.where(self.kept[:, None], torch.ones_like(powers), powers)

    def whole(self) -> torch.Tensor:
        """Every slot its own set, undivided (int64 ``[slots, 1]``)."""
        return self.order[:, None]

    def _random(self, *shape: int) -> torch.Tensor:
        return torch.rand(shape, dtype=torch.float64, device=self.order.device, generator=self._generator)


def gather(stack: torch.Tensor, rows: Rows) -> torch.Tensor:
    """The units that `rows` names: ``[slots, *stack.shape[1:]]``."""
    values = _selected(stack, rows)
    if rows.factor is not None:
        _units(values, rows)[..., rows.first :].mul_(_factors(rows, values))
    return values


def fill(target: torch.Tensor, stack: torch.Tensor, rows: Rows) -> None:
    """Write the units that `rows` names into ``target`` (``[slots, *stack.shape[1:]]``; rows may be further apart than they are long)."""
    if stack.is_cuda and is_plain(stack, rows) and (lines := _passes.lines_of(target)):
        _passes.fill(target, stack, rows.source, rows.factor, rows.first, lines)
        return
    if rows.source.shape[1] == 1 and rows.factor is None and not stack.is_cuda:  # one pass instead of two
        for slot, index in enumerate(rows.source.flatten().tolist()):
            target[slot].copy_(stack[index])
        return
    step = max(_CHUNK[stack.device.type] // max(stack[0].nbytes, 1), 1)
    for first in range(0, len(target), step):
        part = rows.part(slice(first, first + step))
        _fill(target[first : first + step], _selected(stack, part), part)


def is_plain(stack: torch.Tensor, rows: Rows) -> bool:
    """Whether these units of a stack can be had in one pass, see `_passes`."""
    return stack.is_contiguous() and (rows.factor is None or stack.dtype in _MULTIPLIED)


def _fill(target: torch.Tensor, values: torch.Tensor, rows: Rows) -> None:
    if rows.factor is None:
        target.copy_(values)
        return
    given, wanted = _units(values, rows), _units(target, rows)
    wanted[..., : rows.first].copy_(given[..., : rows.first])
    torch.mul(given[..., rows.first :], _factors(rows, values), out=wanted[..., rows.first :])


def _selected(stack: torch.Tensor, rows: Rows) -> torch.Tensor:
    flat = stack.reshape(stack.shape[0] * rows.source.shape[1], -1)
    return flat.index_select(0, rows.source.flatten()).view(len(rows.source), *stack.shape[1:])


def _units(values: torch.Tensor, rows: Rows) -> torch.Tensor:
    """``[slots, units, lines, width]``, without a copy."""
    slots, units = rows.source.shape
    return values.view(slots, units, values[:1].numel() // (units * values.shape[-1]) if values.numel() else 0, values.shape[-1])


def _factors(rows: Rows, values: torch.Tensor) -> torch.Tensor:
    assert rows.factor is not None
    return rows.factor.to(values.dtype)[:, :, None, None]
