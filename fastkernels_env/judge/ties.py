"""Outputs that are indices: any choice among candidates whose scores tie is right.

The order inside a row does not matter. With k indices a row and s the k-th largest score of the oracle, an index is right if its own
score is at least ``s - tolerance``; none may occur twice, and every candidate above ``s + tolerance`` must be there, where the
tolerance is ``atol + rtol * |s|``.
"""

from __future__ import annotations

import math

import torch

from ..task import Gate
from .compare import Comparison
from .parts import WHOLE, Worst


def compare_ids(actual: torch.Tensor, scores: torch.Tensor, gate: Gate) -> Comparison:
    """Compare chosen indices with the oracle's scores.

    Args:
        actual: Integers ``[..., k]``.
        scores: Score of every candidate, float64 ``[..., candidates]``.
        gate: Tolerance under which scores tie.
    """
    if actual.shape[:-1] != scores.shape[:-1] or actual.shape[-1] > scores.shape[-1]:
        wanted = f"{(*scores.shape[:-1], 'k')} with k of at most {scores.shape[-1]}"
        raise ValueError(f"expected indices of shape {wanted}, got {tuple(actual.shape)}")
    elements = actual.numel()
    if not elements:
        return Comparison(True, 0, 0.0, 0.0, 0.0, 0.0, WHOLE, 0)
    wrong = _wrong(actual, scores, gate).reshape(-1, actual.shape[-1])
    count, row = int(wrong.sum()), int(wrong.sum(1).argmax())
    worst = Worst(f"row {row}", float(wrong[row].double().mean()), 0.0, math.inf) if count else WHOLE
    share = count / elements
    return Comparison(not count, elements, share, math.inf if count else 0.0, share, 0.0, worst, 0)


def all_tied(actual: torch.Tensor, scores: torch.Tensor, gate: Gate) -> bool:
    """Whether every index is right."""
    return compare_ids(actual, scores, gate).ok


def _wrong(actual: torch.Tensor, scores: torch.Tensor, gate: Gate) -> torch.Tensor:
    """Which indices are out of range, repeated, below the tie, or stand where a candidate above it is missing."""
    ids, candidates, k = actual.long(), scores.shape[-1], actual.shape[-1]
    valid = (ids >= 0) & (ids < candidates)
    safe = ids.clamp(0, candidates - 1)
    edge = scores.topk(k, dim=-1).values[..., -1:]
    tolerance = gate.atol + gate.rtol * edge.abs()
    ordered, order = ids.sort(dim=-1, stable=True)
    again = torch.zeros_like(valid)
    again[..., 1:] = ordered[..., 1:] == ordered[..., :-1]
    repeated = torch.zeros_like(valid).scatter(-1, order, again)
    low = scores.gather(-1, safe) < edge - tolerance
    bad = ~valid | repeated | low
    taken = torch.zeros_like(scores).scatter_add(-1, safe, valid.to(scores.dtype)) > 0
    missing = ((scores > edge + tolerance) & ~taken).sum(-1, keepdim=True)
    # A clear winner that is missing has a tied candidate in its place: count those, from the last.
    tied = ~bad & (scores.gather(-1, safe) <= edge + tolerance)
    return bad | (tied & (tied.flip(-1).cumsum(-1).flip(-1) <= (missing - bad.sum(-1, keepdim=True))))
