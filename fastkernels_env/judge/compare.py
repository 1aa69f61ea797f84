"""Compare an output with the oracle: per element, overall, and per part (row, column, and the groups that the task declares).

The acceptance rule (all must hold):

* non-finite positions are exactly the oracle's;
* at least 99 % of elements satisfy ``|a - e| <= atol + rtol * |e|`` and none is past 10 gates; where production is known to err by a share
  *baseline* of the values, the gate is no narrower than three times that share of the row's root mean square (four roundings at most):
  rounding of intermediate results is as large for an element that cancels as for its neighbours;
* the relative RMS error ``||a - e|| / ||e||`` is at most ``max(2 x rounding, 2 x baseline, floor)``, where *rounding* is the error of
  the oracle itself rounded to the output's dtype (but no less than is usual, unless it is none: a few large elements that happen to be
  near a number of the dtype say nothing about the others), *baseline* the error of a production implementation on the same inputs,
  and *floor* what honest reorderings of a sum cost in that dtype;
* the same holds for each row (last dimension), each column, and each group of the task (head, expert), see `judge.parts`: one dropped
  head or one mis-scaled column must fail.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch

from ..task import Gate
from .parts import WHOLE, Parts, Worst

SHARE_INSIDE = 0.99
MAX_GATES = 10.0
SPREAD = 3.0
"""Gate of an element in standard deviations of production's error: 99.7 % of a normal distribution."""
MOST_ROUNDINGS = 4.0
"""So many roundings of intermediate results widen the gate of an element at most."""
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
    """

    ok: bool
    elements: int
    outside: float
    worst_gates: float
    rms: float
    limit: float
    worst: Worst
    nonfinite: int

    @property
    def far(self) -> bool:
        """Whether it is wrong by more than rounding."""
        return not self.ok and (self.nonfinite > 0 or self.rms >= FAR_RMS)

    def describe(self) -> str:
        """The statistics that decided, in one line."""
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


class _Sums:
    """Running statistics over chunks of rows."""

    def __init__(self, parts: Parts) -> None:
        self.elements = self.outside = self.nonfinite = 0
        self.worst_gates = 0.0
        self.parts = parts


def compare(
    actual: torch.Tensor, expected: torch.Tensor, gate: Gate, floor: float, baseline_rms: float = 0.0,
    groups: Mapping[str, torch.Tensor] | None = None,
) -> Comparison:
    """Compare one output with the oracle.

    Args:
        actual: The judge's private copy, in the output's dtype.
        expected: The oracle, float64 (or the integer dtype itself), same shape.
        gate: Per-element tolerance.
        floor: Smallest relative RMS limit.
        baseline_rms: Relative RMS error of a production implementation on the same inputs.
        groups: By kind ("head"), the group of every run of ``numel / len(ids)`` consecutive elements (int64, 1-D).
    """
    if actual.shape != expected.shape:
        raise ValueError(f"expected an output of shape {tuple(expected.shape)}, got {tuple(actual.shape)}")
    if not actual.is_floating_point():
        return _compare_exactly(actual, expected)
    width = actual.shape[-1] if actual.dim() else 1
    rows = actual.reshape(-1, width) if actual.numel() else actual.reshape(0, max(width, 1))
    truth = expected.reshape(rows.shape)
    sums = _Sums(Parts(rows.shape[0], width, groups or {}))
    usual = _USUAL_ROUNDING * torch.finfo(actual.dtype).eps
    of_row = SPREAD * min(baseline_rms, MOST_ROUNDINGS * usual)
    step = max(1, _CHUNK[actual.device.type] // max(width, 1))
    for first in range(0, rows.shape[0], step):
        _add(sums, rows[first : first + step], truth[first : first + step], gate, of_row)
    return _verdict(sums, usual, floor, baseline_rms)


def _compare_exactly(actual: torch.Tensor, expected: torch.Tensor) -> Comparison:
    wrong = int((actual != expected.to(actual.dtype)).sum())
    share = wrong / max(actual.numel(), 1)
    return Comparison(wrong == 0, actual.numel(), share, math.inf if wrong else 0.0, share, 0.0, WHOLE, 0)


def _add(sums: _Sums, actual: torch.Tensor, expected: torch.Tensor, gate: Gate, of_row: float) -> None:
    a, e = actual.double(), expected.double()
    rounded = e.to(actual.dtype).to(torch.float64, copy=True)
    error = a - e
    if not bool(torch.isfinite(error.sum() + rounded.sum())):
        # Infinities must agree in sign, NaN with NaN; where either is not finite there is no error to measure.
        finite = torch.isfinite(a) & torch.isfinite(rounded)
        same = (a == rounded) | (torch.isnan(a) & torch.isnan(rounded))
        sums.nonfinite += int((~finite & ~same).sum())
        error, e, rounded = (torch.where(finite, values, torch.zeros_like(values)) for values in (error, e, rounded))
    tolerance = e.abs().mul_(gate.rtol).add_(gate.atol)
    if of_row:
        tolerance = tolerance.maximum(e.square().mean(-1, keepdim=True).sqrt_().mul_(of_row))
    gates = error.abs().div_(tolerance)
    if not gate.atol:
        gates.nan_to_num_(0.0, math.inf)  # no error where none is allowed
    sums.elements += a.numel()
    sums.outside += int((gates > 1).sum())
    sums.worst_gates = max(sums.worst_gates, float(gates.max()))
    sums.parts.add(error.square_(), e.square(), rounded.sub_(e).square_())


def _verdict(sums: _Sums, usual: float, floor: float, baseline_rms: float) -> Comparison:
    if not sums.elements:
        return Comparison(True, 0, 0.0, 0.0, 0.0, 0.0, WHOLE, 0)
    rms, rounding = sums.parts.overall()
    limit = max(2 * max(rounding, usual if rounding else 0.0), 2 * baseline_rms, floor)
    worst = sums.parts.worst(limit)
    outside = sums.outside / sums.elements
    ok = (
        sums.nonfinite == 0
        and outside <= 1 - SHARE_INSIDE
        and sums.worst_gates <= MAX_GATES
        and rms <= limit
        and worst.excess <= 1
    )
    return Comparison(ok, sums.elements, outside, sums.worst_gates, rms, limit, worst, sums.nonfinite)


def all_close(actual: torch.Tensor, expected: torch.Tensor, gate: Gate) -> bool:
    """The loose test of common benchmarks: every element inside the gate, NaN never."""
    if not actual.is_floating_point():
        return bool((actual == expected.to(actual.dtype)).all())
    return torch.allclose(actual.double(), expected.double(), rtol=gate.rtol, atol=gate.atol)
