"""Statistics of rewards: mean and spread, rank correlations with ties, and counts of inversions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

_Integers = npt.NDArray[np.int64]


class Moments(msgspec.Struct, frozen=True):
    """Count, mean, standard deviation (of the population) and extremes; all but the count are None where there is no value."""

    count: int
    mean: float | None = None
    spread: float | None = None
    low: float | None = None
    high: float | None = None


def moments(values: Iterable[float]) -> Moments:
    """The moments of finite values."""
    kept = list(values)
    if not kept:
        return Moments(0)
    mean = math.fsum(kept) / len(kept)
    low, high = min(kept), max(kept)
    # Rounding of a mean must not make equal values differ.
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in kept) / len(kept)) if low < high else 0.0
    return Moments(len(kept), min(max(mean, low), high), spread, low, high)


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rank correlation: Pearson's of the ranks, tied values sharing the mean of theirs.

    Args:
        first: Finite values.
        second: As many of them.

    Returns:
        -1 to 1; None where either side is constant or has fewer than two values.
    """
    # Twice the centred mean rank is an integer, so that the sums below are exact.
    ranks, others = _twice_centred_ranks(first), _twice_centred_ranks(second)
    if len(ranks) != len(others):
        raise ValueError(f"expected as many values on both sides, got {len(ranks)} and {len(others)}")
    squares = int(ranks @ ranks), int(others @ others)
    if not all(squares):
        return None
    return _clamped(int(ranks @ others) / math.sqrt(squares[0] * squares[1]))


def kendall(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Kendall's tau-b: ``(concordant - discordant) / sqrt(pairs untied in first * pairs untied in second)``.

    Knight, "A computer method for calculating Kendall's tau with ungrouped data" (1966): O(n log n). Arguments and result as
    `spearman`.
    """
    x, y = _codes(first), _codes(second)
    if len(x) != len(y):
        raise ValueError(f"expected as many values on both sides, got {len(x)} and {len(y)}")
    pairs = len(x) * (len(x) - 1) // 2
    tied_x, tied_y, tied_both = _tied_pairs(x), _tied_pairs(y), _tied_pairs(x * (len(y) + 1) + y)
    if pairs in (tied_x, tied_y):
        return None
    discordant = inversions(y[np.lexsort((y, x))])
    difference = pairs - tied_x - tied_y + tied_both - 2 * discordant
    return _clamped(difference / math.sqrt((pairs - tied_x) * (pairs - tied_y)))


def inversions(codes: _Integers) -> int:
    """How many pairs stand in the wrong order: ``i < j`` and ``codes[i] > codes[j]``.

    Args:
        codes: Integers of at least 0, shape [n].

    The highest bit in which two numbers differ decides. So for each bit, from the top, the numbers lie in groups of equal higher
    bits, each in its first order, and every zero counts the ones before it in its group.
    """
    total = 0
    for bit in reversed(range(int(codes.max(initial=0)).bit_length())):
        ones = codes >> bit & 1
        before = np.cumsum(ones) - ones
        group = codes >> (bit + 1)
        total += int((before - before[np.searchsorted(group, group)])[ones == 0].sum())
        codes = codes[np.argsort(codes >> bit, kind="stable")]
    return total


def _codes(values: Sequence[float]) -> _Integers:
    """The values by their place among the distinct ones, from 0."""
    return np.unique(np.asarray(values, dtype=np.float64), return_inverse=True)[1].astype(np.int64)


def _twice_centred_ranks(values: Sequence[float]) -> _Integers:
    codes = _codes(values)
    counts = np.bincount(codes)
    ends = np.cumsum(counts)
    # Ranks of a tie run from end - count + 1 to end; their mean less (n + 1) / 2, twice.
    return (2 * ends - counts - len(codes))[codes].astype(np.int64)


def _tied_pairs(codes: _Integers) -> int:
    counts = np.unique(codes, return_counts=True)[1]
    return int((counts * (counts - 1) // 2).sum())


def _clamped(value: float) -> float:
    return min(1.0, max(-1.0, value))
