"""Compare an output with the oracle: per element, overall, and per part (row, column, and the groups that the task declares).

The acceptance rule (all must hold):

* non-finite positions are exactly the oracle's;
* at least 99 % of elements satisfy ``|a - e| <= atol + rtol * |e|`` and none is past 10 gates; where production is known to err by a share
  *baseline* of the values, the gate is no narrower than three times that share of the row's root mean square (four roundings at most,
  or as many as the task's numerics say):
  rounding of intermediate results is as large for an element that cancels as for its neighbours;
* the relative RMS error ``||a - e|| / ||e||`` is at most ``max(2 x rounding, 2 x baseline, floor)``, where *rounding* is the error of
  the oracle itself rounded to the output's dtype (but no less than is usual, unless it is none: a few large elements that happen to be
  near a number of the dtype say nothing about the others), *baseline* the error of a production implementation on the same inputs,
  and *floor* what honest reorderings of a sum cost in that dtype;
* the same holds for each row (last dimension), each column, and each group of the task (head, expert), see `judge.parts`: one dropped
  head or one mis-scaled column must fail.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch

from .. import _passes
from ..agreement import MOST, Agreement
from ..task import N1, Gate
from .parts import TINY, WHOLE, Parts, Worst, first_of

SHARE_INSIDE = 0.99
MAX_GATES = 10.0
SPREAD = 3.0
"""Gate of an element in standard deviations of production's error: 99.7 % of a normal distribution."""
FAR_RMS = 0.1
"""Relative RMS error from which on no rounding explains it."""
_USUAL_ROUNDING = math.sqrt(math.log(2) / 18)
"""Relative RMS rounding of numbers spread evenly over the logarithm, in machine epsilons: ``eps^2 / 12`` over the mean square of
``[1, 2)``, which is ``3 / (2 ln 2)``.
"""
_CHUNK = {"cpu": 1 << 17, "cuda": 1 << 25}
"""Elements compared at once: what stays in a core's cache, or what keeps a GPU busy."""


class Comparison(NamedTuple):
    """Error statistics of one output.

    Attributes:
        ok: Whether the rule holds.
        elements: Number of compared elements.
        outside: Share of elements outside the gate.
        worst_gates: Largest error in gates.
        rms: Relative RMS error.
        limit: Its limit.
        worst: The part that exceeds its limit most, or comes closest to it.
        nonfinite: Elements that are non-finite where the oracle is finite, or the other way round.
        told: What a task's own measure says, if it was that.
    """

    ok: bool
    elements: int
    outside: float
    worst_gates: float
    rms: float
    limit: float
    worst: Worst
    nonfinite: int
    told: str = ""

    @classmethod
    def of(cls, agreement: Agreement) -> Comparison:
        """What a task's own measure found; its discrepancy takes the place of the relative RMS error."""
        off, limit = agreement.discrepancy, agreement.limit
        told = f"{agreement.told} (discrepancy {off:.2e}, limit {limit:.2e})"
        return cls(agreement.ok, agreement.elements, off, off / limit, off, limit, WHOLE, 0, told)

    @property
    def distance(self) -> float:
        """The relative RMS error, or a discrepancy on its scale: what is far of the one is as far of the other."""
        return self.rms * FAR_RMS / MOST if self.told else self.rms

    @property
    def far(self) -> bool:
        """Whether it is wrong by more than rounding."""
        return not self.ok and (self.nonfinite > 0 or self.distance >= FAR_RMS)

    def describe(self) -> str:
        """The statistics that decided, in one line."""
        if self.told:
            return self.told
        if self.nonfinite:
            return f"{self.nonfinite} of {self.elements} elements are NaN or infinite where they must not be (or finite where they must be)"
        if not self.limit and math.isinf(self.worst_gates):
            where = f", worst {self.worst.name}" if self.worst.name else ""
            return f"{self.outside:.2%} of {self.elements} elements are wrong{where}"
        parts = [f"{self.outside:.2%} of {self.elements} elements outside the tolerance (worst {self.worst_gates:.3g} times)"]
        parts.append(f"relative RMS error {self.rms:.2e} (limit {self.limit:.2e})")
        if self.worst.excess > 1:
            parts.append(f"worst {self.worst.name}: {self.worst.rms:.2e} (limit {self.worst.limit:.2e})")
        return ", ".join(parts)


class Pending(NamedTuple):
    """A comparison whose figures may still be on the device.

    Attributes:
        figures: float64 ``[n]``.
        finish: Makes the result of them, on the host.
    """

    figures: torch.Tensor
    finish: Callable[[Sequence[float]], Comparison]

    @classmethod
    def done(cls, result: Comparison) -> Pending:
        """One that waits for nothing."""
        return cls(torch.empty(0, dtype=torch.float64), lambda _: result)


def settle(pending: Sequence[Pending]) -> list[Comparison]:
    """Results of several comparisons, whose figures come from the device at once: waiting for a shared one takes longer than comparing."""
    sizes = [one.figures.numel() for one in pending]
    waiting = [one.figures for one in pending if one.figures.numel()]
    figures = torch.cat(waiting).tolist() if waiting else []
    ends = list(itertools.accumulate(sizes))
    return [one.finish(figures[end - size : end]) for one, size, end in zip(pending, sizes, ends, strict=True)]


def compare(
    actual: torch.Tensor, expected: torch.Tensor, gate: Gate, floor: float, baseline_rms: float = 0.0,
    groups: Mapping[str, torch.Tensor] | None = None, roundings: float = N1.roundings,
) -> Comparison:
    """Compare one output with the oracle.

    Args:
        actual: The judge's private copy, in the output's dtype.
        expected: The oracle, float64 (or the integer dtype itself), same shape.
        gate: Per-element tolerance.
        floor: Smallest relative RMS limit.
        baseline_rms: Relative RMS error of a production implementation on the same inputs.
        groups: By kind ("head"), the group of every run of ``numel / len(ids)`` consecutive elements (int64, 1-D).
        roundings: See `Numerics`.
    """
    return settle([begin(actual, expected, gate, floor, baseline_rms, groups, roundings)])[0]


def begin(
    actual: torch.Tensor, expected: torch.Tensor, gate: Gate, floor: float, baseline_rms: float = 0.0,
    groups: Mapping[str, torch.Tensor] | None = None, roundings: float = N1.roundings,
) -> Pending:
    """As `compare`, without waiting for the result. Both tensors must stay as they are until it is settled."""
    if actual.shape != expected.shape:
        raise ValueError(f"expected an output of shape {tuple(expected.shape)}, got {tuple(actual.shape)}")
    if not actual.is_floating_point():
        return Pending.done(_compare_exactly(actual, expected))
    if not actual.numel():
        return Pending.done(Comparison(True, 0, 0.0, 0.0, 0.0, 0.0, WHOLE, 0))
    rows = actual.reshape(-1, actual.shape[-1] if actual.dim() else 1)
    truth = expected.reshape(rows.shape)
    usual = _USUAL_ROUNDING * torch.finfo(actual.dtype).eps
    rule = _Rule(gate, SPREAD * min(baseline_rms, roundings * usual), usual, max(2 * baseline_rms, floor))
    figures, kinds = _measure(rows, truth, rule, groups or {}, guarded=False)

    def finish(seen: Sequence[float]) -> Comparison:
        if seen[3] != 1.0:  # then only a guarded comparison means anything
            seen = _measure(rows, truth, rule, groups or {}, guarded=True)[0].tolist()
        return _verdict(rows.numel(), seen[:6], first_of(kinds, seen[6:]))

    return Pending(figures, finish)


class _Rule(NamedTuple):
    """Tolerances: the gate of an element, and as a share of its row; the usual rounding; the least limit of the relative RMS error."""

    gate: Gate
    of_row: float
    usual: float
    least: float


def _compare_exactly(actual: torch.Tensor, expected: torch.Tensor) -> Comparison:
    wrong = int((actual != expected.to(actual.dtype)).sum())
    share = wrong / max(actual.numel(), 1)
    return Comparison(wrong == 0, actual.numel(), share, math.inf if wrong else 0.0, share, 0.0, WHOLE, 0)


def _measure(
    actual: torch.Tensor, expected: torch.Tensor, rule: _Rule, groups: Mapping[str, torch.Tensor], *, guarded: bool
) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Compare rows (``[rows, width]``): what `_verdict` needs, then four figures for every kind of part, and these kinds."""
    parts = Parts(actual.shape[0], actual.shape[1], groups)
    if actual.is_cuda and actual.dtype in _passes.NARROW and not guarded:
        found = _passes.errors(actual, expected, parts.cell, rule.gate.rtol, rule.gate.atol, rule.of_row)
        parts.take(found.cells, found.columns)
        sums = found.figures[None]
    else:
        step = max(1, _CHUNK[actual.device.type] // actual.shape[1])
        sums = torch.stack([
            _add(parts, actual[first : first + step], expected[first : first + step], rule, guarded)
            for first in range(0, len(actual), step)
        ])
    error, energy, rounding = parts.totals()
    rms, rounded = ((squares / energy.clamp_min(TINY)).sqrt() for squares in (error, rounding))
    limit = torch.where(rounded > 0, 2 * rounded.clamp_min(rule.usual), 0.0).clamp_min(rule.least)
    kinds, worst = parts.worst(limit)
    whole = torch.stack([sums[:, 0].sum(), sums[:, 1].sum(), sums[:, 2].amax(), sums[:, 3].amin(), rms, limit])
    return torch.cat([whole, worst.flatten()]), kinds


def _add(parts: Parts, actual: torch.Tensor, expected: torch.Tensor, rule: _Rule, guarded: bool) -> torch.Tensor:
    """Add a chunk of rows: how many elements are outside the gate, and not finite; the largest error in gates; 1 if all are finite."""
    a, e = actual.double(), expected.double()
    rounded = e.to(actual.dtype).to(torch.float64, copy=True)
    error = a - e
    finite = torch.isfinite(error.sum() + rounded.sum())
    wrong = torch.zeros_like(error[0, 0])
    if guarded:
        # Infinities must agree in sign, NaN with NaN; where either is not finite there is no error to measure.
        known = torch.isfinite(a) & torch.isfinite(rounded)
        same = (a == rounded) | (torch.isnan(a) & torch.isnan(rounded))
        wrong = (~known & ~same).sum()
        error, e, rounded = (torch.where(known, values, torch.zeros_like(values)) for values in (error, e, rounded))
    tolerance = e.abs().mul_(rule.gate.rtol).add_(rule.gate.atol)
    if rule.of_row:
        tolerance = tolerance.maximum(e.square().mean(-1, keepdim=True).sqrt_().mul_(rule.of_row))
    gates = error.abs().div_(tolerance)
    if not rule.gate.atol:
        gates.nan_to_num_(0.0, math.inf)  # no error where none is allowed
    figures = torch.stack([(gates > 1).sum().double(), wrong.double(), gates.max(), finite.double()])
    parts.add(error.square_(), e.square(), rounded.sub_(e).square_())
    return figures


def _verdict(elements: int, figures: Sequence[float], worst: Worst) -> Comparison:
    outside, nonfinite, gates, _, rms, limit = figures
    ok = nonfinite == 0 and outside / elements <= 1 - SHARE_INSIDE and gates <= MAX_GATES and rms <= limit and worst.excess <= 1
    return Comparison(ok, elements, outside / elements, gates, rms, limit, worst, int(nonfinite))


def all_close(actual: torch.Tensor, expected: torch.Tensor, gate: Gate) -> bool:
    """The loose test of common benchmarks: every element inside the gate, NaN never."""
    if not actual.is_floating_point():
        return bool((actual == expected.to(actual.dtype)).all())
    return torch.allclose(actual.double(), expected.double(), rtol=gate.rtol, atol=gate.atol)
