"""Errors of the parts of an output: rows, columns, and the groups that a task declares.

An error that is small in the whole can be total in a part. A part of n elements out of N of its kind may have a relative RMS error of
``slack x chance(n, N)`` times the limit of the whole, or twice its own rounding if that is more: near the smallest numbers that a dtype
holds rounding is coarser. It is relative to the part's own norm, but not to less than a share of what is usual for its kind, because
cancellation, and chance where few elements make up a part, leave nothing to be relative to.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch

ROW_SLACK = 3.0
"""Also of columns."""
GROUP_SLACK = 2.0
QUIET = 0.01
"""Share of the usual RMS of a kind, below which a part is judged against that share."""
TINY = 1e-60
_LOG_MISS = 3.0
"""Logarithm of the odds against a false alarm from chance alone, on top of the number of parts."""


class Worst(NamedTuple):
    """The part that is furthest beyond its limit.

    Attributes:
        name: Such as ``row 351``, ``column 12``, ``head 3``.
        rms: Its relative RMS error.
        limit: Its limit.
        excess: Error over limit.
    """

    name: str
    rms: float
    limit: float
    excess: float


WHOLE = Worst("", 0.0, 0.0, 0.0)


class Parts:
    """Sums of squared errors, of squares and of squared roundings, by part of one output.

    Args:
        rows: Number of rows.
        width: Elements of a row.
        groups: By kind, the group of every run of ``rows * width / len(ids)`` consecutive elements.

    Raises:
        ValueError: A run is no divisor and no multiple of a row, or of another run.
    """

    def __init__(self, rows: int, width: int, groups: Mapping[str, torch.Tensor]) -> None:
        self._rows, self._width = rows, width
        total = rows * width
        self._groups = {kind: ids for kind, ids in groups.items() if ids.numel() and total}
        runs = {kind: total // ids.numel() for kind, ids in self._groups.items()}
        self._cell = min([width, *runs.values()])
        for kind, run in runs.items():
            if run * self._groups[kind].numel() != total or run % self._cell or (width % run and run % width):
                raise ValueError(f"{kind!r}: {self._groups[kind].numel()} ids do not divide an output of {rows} rows of {width}")
        self._cells: list[torch.Tensor] = []
        self._columns: torch.Tensor | None = None

    def add(self, error: torch.Tensor, energy: torch.Tensor, rounding: torch.Tensor) -> None:
        """Add the next rows; each argument is float64 ``[rows, width]`` and holds squares."""
        squares = (error, energy, rounding)
        self._cells.append(torch.stack([values.reshape(-1, self._cell).sum(1) for values in squares]))
        if self._rows > 1:
            columns = torch.stack([values.sum(0) for values in squares])
            self._columns = columns if self._columns is None else self._columns.add_(columns)

    @property
    def cell(self) -> int:
        """Elements of a row that are in the same parts."""
        return self._cell

    def take(self, cells: torch.Tensor, columns: torch.Tensor) -> None:
        """All sums at once, as `_passes.errors` gives them."""
        self._cells, self._columns = [cells], columns if self._rows > 1 else None

    def totals(self) -> torch.Tensor:
        """Sums of squared errors, of squares and of squared roundings over the whole output (float64 ``[3]``)."""
        return torch.cat(self._cells, 1).sum(1)

    def worst(self, limit: torch.Tensor) -> tuple[tuple[str, ...], torch.Tensor]:
        """The worst part of every kind, where the whole may have a relative RMS error of `limit` (0-dimensional).

        Returns:
            The kinds, and float64 ``[kinds, 4]``: excess, number of the part, its relative RMS error, its limit.
        """
        kinds = list(self._kinds())
        return tuple(kind for kind, *_ in kinds), torch.stack([_worst(sums, counts, limit, slack) for _, sums, counts, slack in kinds])

    def _kinds(self) -> Iterator[tuple[str, torch.Tensor, torch.Tensor, float]]:
        """Per kind: its name, sums ``[3, parts]``, elements of every part, slack."""
        cells = torch.cat(self._cells, 1)
        rows = cells.view(3, self._rows, -1).sum(2)
        yield "row", rows, torch.full_like(rows[0], self._width), ROW_SLACK
        if self._columns is not None:
            yield "column", self._columns, torch.full_like(self._columns[0], self._rows), ROW_SLACK
        for kind, ids in self._groups.items():
            runs = cells.view(3, ids.numel(), -1).sum(2)
            ids = ids.to(runs.device)
            sums = runs.new_zeros(3, int(ids.max()) + 1).index_add_(1, ids, runs)
            counts = torch.zeros_like(sums[0]).index_add_(0, ids, torch.full_like(runs[0], self._rows * self._width / ids.numel()))
            yield kind, sums, counts, GROUP_SLACK


def first_of(kinds: Sequence[str], figures: Sequence[float]) -> Worst:
    """The worst part of all, of what `Parts.worst` gives, flattened and on the host."""
    rows = [figures[first : first + 4] for first in range(0, len(figures), 4)]
    kind, (excess, index, rms, allowed) = max(zip(kinds, rows, strict=True), key=lambda pair: pair[1][0])
    return Worst(f"{kind} {int(index)}", rms, allowed, excess)


def _worst(sums: torch.Tensor, counts: torch.Tensor, limit: torch.Tensor, slack: float) -> torch.Tensor:
    error, energy, rounding = sums
    size = counts.clamp_min(1)
    usual = torch.where(energy > 0, energy / size, math.nan).nanmedian().nan_to_num(0.0)
    base = energy.maximum(usual * counts * size.reciprocal().clamp_min(QUIET**2)).clamp_min(TINY)
    rms = (error / base).sqrt()
    odds = (math.log(max(len(error), 1)) + _LOG_MISS) / size
    chance = (1 + 2 * odds.sqrt() + 2 * odds).sqrt()  # the upper tail of a chi-square variable over its mean (Laurent and Massart 2000)
    allowed = (2 * (rounding / base).sqrt()).maximum(slack * limit * chance).clamp_min(TINY)
    excess, index = (rms / allowed).max(0, keepdim=True)
    return torch.cat([excess, index.double(), rms[index], allowed[index]])
