"""Compare an output with the oracle: per element, overall, and per row.

The acceptance rule (all must hold):

* non-finite positions are exactly the oracle's;
* at least 99 % of elements satisfy ``|a - e| <= atol + rtol * |e|`` and none is past 10 gates;
* the relative RMS error ``||a - e|| / ||e||`` is at most ``max(2 x rounding, 2 x baseline, floor)``, where *rounding* is the error of
  the oracle itself rounded to the output's dtype, *baseline* the error of a production implementation on the same inputs, and
  *floor* what honest reorderings of a sum cost in that dtype;
* the same holds for each row (last dimension) at `ROW_SLACK` times that limit, or twice the row's own rounding if that is more: one
  dropped head or expert row must fail.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from ..task import Gate

SHARE_INSIDE = 0.99
MAX_GATES = 10.0
ROW_SLACK = 3.0
QUIET_ROW = 0.01
"""Rows whose RMS is below this share of the average are judged against that share: cancellation leaves nothing to be relative to."""
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
        worst_row_rms: Largest relative RMS error of a row.
        worst_row: Its index (rows flattened).
        nonfinite: Elements that are non-finite where the oracle is finite, or the other way round.
    """

    ok: bool
    elements: int
    outside: float
    worst_gates: float
    rms: float
    limit: float
    worst_row_rms: float
    worst_row: int
    nonfinite: int

    def describe(self) -> str:
        """The statistics that decided, in one line."""
        if self.nonfinite:
            return f"{self.nonfinite} of {self.elements} elements are NaN or infinite where they must not be (or finite where they must be)"
        parts = [f"{self.outside:.2%} of {self.elements} elements outside the tolerance (worst {self.worst_gates:.3g} times)"]
        parts.append(f"relative RMS error {self.rms:.2e} (limit {self.limit:.2e})")
        if self.worst_row_rms > ROW_SLACK * self.limit:
            parts.append(f"worst row {self.worst_row}: {self.worst_row_rms:.2e}")
        return ", ".join(parts)


class _Sums:
    """Running statistics over chunks of rows."""

    def __init__(self) -> None:
        self.elements = self.outside = self.nonfinite = 0
        self.worst_gates = self.error = self.rounding = self.energy = 0.0
        self.rows: list[torch.Tensor] = []


def compare(actual: torch.Tensor, expected: torch.Tensor, gate: Gate, floor: float, baseline_rms: float = 0.0) -> Comparison:
    """Compare one output with the oracle.

    Args:
        actual: The judge's private copy, in the output's dtype.
        expected: The oracle, float64 (or the integer dtype itself), same shape.
        gate: Per-element tolerance.
        floor: Smallest relative RMS limit.
        baseline_rms: Relative RMS error of a production implementation on the same inputs.
    """
    if actual.shape != expected.shape:
        raise ValueError(f"expected an output of shape {tuple(expected.shape)}, got {tuple(actual.shape)}")
    if not actual.is_floating_point():
        return _compare_exactly(actual, expected)
    sums = _Sums()
    width = actual.shape[-1] if actual.dim() else 1
    rows = actual.reshape(-1, width) if actual.numel() else actual.reshape(0, max(width, 1))
    truth = expected.reshape(rows.shape)
    step = max(1, _CHUNK[actual.device.type] // max(width, 1))
    for first in range(0, rows.shape[0], step):
        _add(sums, rows[first : first + step], truth[first : first + step], gate)
    return _verdict(sums, floor, baseline_rms)


def _compare_exactly(actual: torch.Tensor, expected: torch.Tensor) -> Comparison:
    wrong = int((actual != expected.to(actual.dtype)).sum())
    share = wrong / max(actual.numel(), 1)
    return Comparison(wrong == 0, actual.numel(), share, math.inf if wrong else 0.0, share, 0.0, share, 0, 0)


def _add(sums: _Sums, actual: torch.Tensor, expected: torch.Tensor, gate: Gate) -> None:
    a, e = actual.double(), expected.double()
    rounded = e.to(actual.dtype).to(torch.float64, copy=True)
    error = a - e
    if not bool(torch.isfinite(error.sum() + rounded.sum())):
        # Infinities must agree in sign, NaN with NaN; where either is not finite there is no error to measure.
        finite = torch.isfinite(a) & torch.isfinite(rounded)
        same = (a == rounded) | (torch.isnan(a) & torch.isnan(rounded))
        sums.nonfinite += int((~finite & ~same).sum())
        error, e, rounded = (torch.where(finite, values, torch.zeros_like(values)) for values in (error, e, rounded))
    gates = error.abs().div_(e.abs().mul_(gate.rtol).add_(gate.atol))
    if not gate.atol:
        gates.nan_to_num_(0.0, math.inf)  # no error where none is allowed
    sums.elements += a.numel()
    sums.outside += int((gates > 1).sum())
    sums.worst_gates = max(sums.worst_gates, float(gates.max()))
    row_error, row_energy = error.square_().sum(1), e.square().sum(1)
    sums.error += float(row_error.sum())
    sums.energy += float(row_energy.sum())
    row_rounding = rounded.sub_(e).square_().sum(1)
    sums.rounding += float(row_rounding.sum())
    sums.rows.append(torch.stack((row_error, row_energy, row_rounding)))


def _verdict(sums: _Sums, floor: float, baseline_rms: float) -> Comparison:
    if not sums.elements:
        return Comparison(True, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0, 0)
    energy = max(sums.energy, 1e-60)
    rms = math.sqrt(sums.error / energy)
    limit = max(2 * math.sqrt(sums.rounding / energy), 2 * baseline_rms, floor)
    row_error, row_energy, row_rounding = torch.cat(sums.rows, 1)
    quiet = (QUIET_ROW**2 * energy / row_energy.numel()) + 1e-60
    row_rms = (row_error / row_energy.clamp_min(quiet)).sqrt()
    # A row of numbers near the smallest that the dtype can hold is rounded more coarsely than the others.
    excess, row = (row_rms / (2 * (row_rounding / row_energy.clamp_min(quiet)).sqrt()).clamp_min(ROW_SLACK * limit + 1e-60)).max(0)
    outside = sums.outside / sums.elements
    ok = (
        sums.nonfinite == 0
        and outside <= 1 - SHARE_INSIDE
        and sums.worst_gates <= MAX_GATES
        and rms <= limit
        and float(excess) <= 1
    )
    return Comparison(ok, sums.elements, outside, sums.worst_gates, rms, limit, float(row_rms[row]), int(row), sums.nonfinite)


def all_close(actual: torch.Tensor, expected: torch.Tensor, gate: Gate) -> bool:
    """The loose test of common benchmarks: every element inside the gate, NaN never."""
    if not actual.is_floating_point():
        return bool((actual == expected.to(actual.dtype)).all())
    return torch.allclose(actual.double(), expected.double(), rtol=gate.rtol, atol=gate.atol)
