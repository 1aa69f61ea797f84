"""Sealed calls: whether calls in a row are as fast as a call that nobody could prepare for.

All entries of a block lie there before "go". They could be computed together, ahead of their turn, or looked up by their content. So some
calls are sealed: while every process of the worker is stopped the judge writes an entry that was never seen before into one of several
slots, empties the cache, and only "go" says which; the worker runs that call alone, and its output is compared with the oracle.

A lone call is mostly round trip. Candidate and best baseline take turns, so what is compared is their difference: sealed ``C - B`` against
the ring's ``c - b``. By how much the former is larger is the *excess*. Lower quartiles stand for each: a host that is busy makes some calls
slow, never fast. Calls are sampled until the interval of the excess lies under what honest kernels show, or the budget is spent; then the
slower one scores. An excess far above that, seen again in a fresh process, is evidence of cheating.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from .answers import TimedFailure
from .profile import BLOCK_SECONDS, SEALED, WAKE, Profiler, Side, blamed

if TYPE_CHECKING:
    from ..task import Value

LEAST_PAIRS = 6
MOST_PAIRS = 48
ALLOWED_US = {"cpu": 60.0, "cuda": 4.0}
"""Excess that honest kernels show on calls that take next to nothing (see docs/measurements)."""
ALLOWED_SHARE = 0.25
"""The same, as a share of the slower side's time per call."""
SUSPICIOUS = 2.0
"""An excess whose whole interval is above this many times what is allowed is no honest kernel's."""
DOUBTFUL = 5
"""How many times the budget may be spent on telling such an excess from noise."""
_QUANTILE = 2.24
"""Of the standard normal for the ranks of a median's interval: 97.5 % on both sides."""


class Sealing(NamedTuple):
    """What sealed calls showed on one workload.

    Attributes:
        pairs: Calls of each side.
        excess_us: By how much the candidate is slower against the baseline in sealed calls than in the ring.
        low_us: Lower end of its interval.
        high_us: Upper end.
        allowed_us: What honest kernels show.
    """

    pairs: int
    excess_us: float
    low_us: float
    high_us: float
    allowed_us: float

    @property
    def settled(self) -> bool:
        """Whether calls in a row were shown to be no faster than sealed ones."""
        return self.high_us <= self.allowed_us

    @property
    def suspicious(self) -> bool:
        """Whether no honest kernel shows this."""
        return self.low_us > SUSPICIOUS * self.allowed_us

    @property
    def resolved(self) -> bool:
        """Whether it is known which of the two is slower, beyond what honest kernels show."""
        return self.settled or self.low_us > self.allowed_us

    @property
    def added_us(self) -> float:
        """What the ring's time per call leaves out: the slower of the two scores, unless their difference is an honest one."""
        return self.excess_us if not self.settled and self.excess_us > self.allowed_us else 0.0

    def describe(self) -> str:
        """In one clause."""
        return (
            f"{self.excess_us:.3g} us slower ({self.low_us:.3g} to {self.high_us:.3g}) than in a row, over {self.pairs} calls; "
            f"honest kernels stay under {self.allowed_us:.3g} us"
        )


def seal(profiler: Profiler, candidate: Side, baseline: Side) -> Sealing:
    """Sample sealed calls of candidate and best baseline, alternately, after the rounds.

    Raises:
        TimedFailure: A sealed output of the candidate was wrong.
        SideError: A side raised, died or hung.
    """
    slower = max(statistics.median(candidate.samples_us), statistics.median(baseline.samples_us))
    allowed = max(ALLOWED_US[profiler.device.kind], ALLOWED_SHARE * slower)
    sealed: dict[str, list[float]] = {candidate.name: [], baseline.name: []}
    start = time.perf_counter()
    for pairs in range(1, MOST_PAIRS + 1):
        _pair(profiler, candidate, baseline, sealed, pairs)
        if pairs < LEAST_PAIRS:
            continue
        result = judge_calls(sealed[candidate.name], sealed[baseline.name], candidate.samples_us, baseline.samples_us, allowed)
        budget = profiler.plan.sealed_seconds * (DOUBTFUL if result.excess_us > SUSPICIOUS * allowed else 1)
        if time.perf_counter() - start > budget or result.settled or result.suspicious:
            break
    return result


def judge_calls(
    candidate: Sequence[float], baseline: Sequence[float], ring_candidate: Sequence[float], ring_baseline: Sequence[float],
    allowed_us: float,
) -> Sealing:
    """The excess of sealed calls over calls in a row, both candidate less baseline and in microseconds, with its interval."""
    signs = (1, -1, -1, 1)
    quartiles = [lower_quartile(samples) for samples in (candidate, baseline, ring_candidate, ring_baseline)]
    excess = sum(sign * middle for sign, (_, middle, _) in zip(signs, quartiles, strict=True))
    down = [middle - low if sign > 0 else high - middle for sign, (low, middle, high) in zip(signs, quartiles, strict=True)]
    up = [high - middle if sign > 0 else middle - low for sign, (low, middle, high) in zip(signs, quartiles, strict=True)]
    return Sealing(len(candidate), excess, excess - math.hypot(*down), excess + math.hypot(*up), allowed_us)


def lower_quartile(samples: Sequence[float]) -> tuple[float, float, float]:
    """A lower quartile between the order statistics that hold it in 97.5 % of cases (at most the extremes), whatever the distribution."""
    ordered, count = sorted(samples), len(samples)
    spread = _QUANTILE * math.sqrt(count * 3) / 4
    low, high = math.floor(count / 4 - spread), math.ceil(count / 4 + spread)
    return ordered[max(low, 0)], ordered[(count - 1) // 4], ordered[min(high, count - 1)]


def _pair(profiler: Profiler, candidate: Side, baseline: Side, sealed: dict[str, list[float]], number: int) -> None:
    """One sealed call of each side on entries of the same draw; microseconds go to `sealed`."""
    slot = int(torch.randint(min(candidate.sealed_slots, baseline.sealed_slots), (1,), generator=profiler.secret))
    drawn = profiler.sets.draw(slot)
    for side in (candidate, baseline) if number % 2 == 0 else (baseline, candidate):
        profiler.turns.give(side.session)
        with blamed(side):
            sealed[side.name].append(_call(profiler, side, slot, drawn, number) * 1e6)


def _call(profiler: Profiler, side: Side, slot: int, drawn: dict[str, Value], number: int) -> float:
    """Seconds of one sealed call, after one that wakes the worker."""
    sets, ring, device, held = profiler.sets, side.ring, profiler.device, profiler.held(side)
    part, wake = slice(slot, slot + 1), slice(sets.geometry.slots, sets.geometry.slots + 1)
    metadata = {name: values[0] for name, values in sets.metadata(held, part).items()}
    case = sets.entry(slot, drawn, metadata, oracle=side.answers is not None)
    ring.refill(held, 0, number % 2)
    positions = ring.secret_words([slot, sets.geometry.slots], profiler.secret)

    def last() -> None:
        ring.put(slot, case, number % 2)
        device.flush()
        device.settle()

    device.settle()
    times, words = side.session.time((WAKE, SEALED + slot), BLOCK_SECONDS, lambda: ring.gather(positions), last)
    answer, first = ring.snapshot(part), ring.snapshot(wake)
    if not torch.equal(words, ring.gather(positions)):
        raise TimedFailure("a sealed output changed after the worker had said that it was done", tampered=True)
    if side.answers is not None:
        side.answers.check(held, wake, first)
        side.answers.compare(case, 0, answer)
    return times[1]
