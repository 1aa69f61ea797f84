"""Sealed calls: whether calls in a row are as fast as a call that nobody could prepare for.

All entries of a block lie there before "go". They could be computed together, ahead of their turn, or looked up by their content. So some
calls are sealed: while every process of the worker is stopped the judge writes an entry that was never seen before into one of several
slots, empties the cache, and only "go" says which; the worker runs that call alone, and its output is compared with the oracle.

On a GPU the round trip of a lone call, with a switch from the judge's context to the worker's, hides most kernels. There calls are sealed
in runs: many slots hold what was never seen before, a few of them are called one by one, each revealed by a "go" of its own, and words are
gathered after the last (see `runs`). To compute ahead would mean to compute all slots for a few, at the first call. The first and the last
contain the switches, so they are judged as a lone call is, and the others on their own.

A lone call is mostly round trip. Candidate and best baseline take turns, so what is compared is their difference: sealed ``C - B`` against
the ring's ``c - b``. By how much the former is larger is the *excess* (see `judge_calls`). Lower quartiles stand for each: a host that is
busy makes some calls slow, never fast. Calls are sampled until the interval of the excess lies under what honest kernels show, or the
budget is spent; then the slower one scores. An excess far above that, seen again in a fresh process, is evidence of cheating.
"""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from ..clock import now
from . import runs
from .crowd import Crowd
from .profile import Profiler
from .side import Side

LEAST_PAIRS = 4
SURE_PAIRS = 12
"""Fewer are no evidence while there is time for more."""
MOST_PAIRS = 48
ALLOWED_US = {"cpu": 60.0, "cuda": 100.0}
"""Excess that honest kernels show in lone calls, and at both ends of a run, if they take next to nothing (see docs/measurements)."""
RUN_ALLOWED_US = 3.0
"""As `ALLOWED_US`, per call inside of a run: launches of the same graph differ by up to 7 us from one arming to the next."""
ARMINGS = 6
"""How often calls are armed anew to see whether an excess stays."""
ALLOWED_SHARE = 0.25
"""The same, as a share of the slower side's time per call."""
EAGER_SHARE = 1.0
"""As `ALLOWED_SHARE` where graphs are usual and a side has none: in a row its launches overlap with the kernels before them."""
WAKING = {"cpu": 1.0, "cuda": 0.0}
"""What is no evidence yet, as a share of what a lone call takes longer than one in a row for the baseline: busy hosts wake threads late."""
MOST_TRIP_US = {"cpu": 3000.0, "cuda": math.inf}
"""What a lone call takes longer than one in a row for the baseline, at most: 0.7 to 1.4 ms on two cores. Beyond, the host is too busy."""
SUSPICIOUS = 2.0
"""An excess whose whole interval is above this many times what is allowed is no honest kernel's."""
COMPANY_US = 40.0
"""What waking one more idle thread or process may delay a sealed call by: 13 us each where 63 children slept on two cores. It is no
evidence of cheating, but it scores."""
DOUBTFUL = 5
"""How many times the budget may be spent on telling such an excess from noise, or on waiting for a quieter host."""
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
        late_us: What honest kernels show on a host that wakes threads late. It scores, but it is no evidence.
        company_us: What waking the candidate's idle threads and processes explains beside that.
        busy: Whether the host is too busy to tell what the round trip of a lone call takes.
        crowded: Whether others used the processors meanwhile. Then nothing is evidence, or certain.
    """

    pairs: int
    excess_us: float
    low_us: float
    high_us: float
    allowed_us: float
    late_us: float = 0.0
    company_us: float = 0.0
    busy: bool = False
    crowded: bool = False

    @property
    def settled(self) -> bool:
        """Whether calls in a row were shown to be no faster than sealed ones."""
        return self.high_us <= self.allowed_us

    @property
    def suspicious(self) -> bool:
        """Whether no honest kernel shows this."""
        return self.low_us > self.doubted_us and not self.crowded

    @property
    def doubted_us(self) -> float:
        """The excess that nothing honest explains."""
        return SUSPICIOUS * max(self.allowed_us, self.late_us) + self.company_us

    @property
    def resolved(self) -> bool:
        """Whether it is known which of the two is slower, beyond what honest kernels show."""
        return self.settled or (self.low_us > self.allowed_us and not self.crowded)

    @property
    def added_us(self) -> float:
        """What the ring's time per call leaves out: the slower of the two scores, unless their difference is an honest one."""
        return self.excess_us if not self.settled and self.excess_us > self.allowed_us else 0.0

    def weight(self) -> float:
        """How much it says against the candidate, to choose among several."""
        return self.excess_us / self.allowed_us

    def describe(self) -> str:
        """In one clause."""
        return (
            f"{self.excess_us:.3g} us slower ({self.low_us:.3g} to {self.high_us:.3g}) than in a row, over {self.pairs} calls; "
            f"honest kernels stay under {self.allowed_us:.3g} us"
        )


def seal(profiler: Profiler, candidate: Side, baseline: Side) -> Sealing:
    """Sample sealed calls of candidate and best baseline, alternately, after the rounds.

    Where they are made in runs, an excess that would score must be there each time that the calls are armed anew: two graphs of the same
    call may differ by microseconds for as long as they live.

    Raises:
        TimedFailure: A sealed output of the candidate was wrong.
        SideError: A side raised, died or hung.
    """
    results = []
    for _ in range(ARMINGS if profiler.device.seals_runs else 1):
        how = runs.start(profiler, candidate, baseline)
        with contextlib.nullcontext() if profiler.device.dear_alone else profiler.turns.alone():
            results.append(_sample(profiler, how, candidate, baseline))
        if not results[-1].added_us:
            break
    return min(results, key=Sealing.weight)


def _sample(profiler: Profiler, how: runs.Sealer, candidate: Side, baseline: Side) -> Sealing:
    crowd = Crowd(profiler.device.processors)
    ends, inside = _two_series(profiler, candidate, baseline)
    start = now()
    for number in range(MOST_PAIRS):
        calls = {side: how.ready(side, number) for side in ((candidate, baseline) if number % 2 == 0 else (baseline, candidate))}
        with profiler.turns.alone():
            timed = {side: pending.time() for side, pending in calls.items()}
        for side, times in timed.items():
            calls[side].check()
            ends.add(side, [(times[0] + times[-1]) / 2])
            inside.add(side, times[1:-1])
        if number + 1 < LEAST_PAIRS:
            continue
        result = max((series.judge(candidate, baseline) for series in (ends, inside) if series.calls), key=Sealing.weight)
        company_us = COMPANY_US * max(candidate.session.tasks() - baseline.session.tasks(), 0)
        result = result._replace(company_us=company_us, crowded=crowd.dense)
        budget = profiler.plan.sealed_seconds * (DOUBTFUL if result.busy or result.excess_us > result.doubted_us else 1)
        if now() - start > budget or result.settled or (result.suspicious and number + 1 >= SURE_PAIRS):
            break
    return result


def _two_series(profiler: Profiler, candidate: Side, baseline: Side) -> tuple[_Series, _Series]:
    """For lone calls and the ends of runs, and for calls inside of runs."""
    slower = max(statistics.median(candidate.samples_us), statistics.median(baseline.samples_us))
    kind = profiler.device.kind
    overlapping = profiler.device.graph and {candidate.mode, baseline.mode} != {"graph"}
    share = EAGER_SHARE if overlapping else ALLOWED_SHARE
    ends = _Series(max(ALLOWED_US[kind], share * slower), WAKING[kind], MOST_TRIP_US[kind])
    return ends, _Series(max(RUN_ALLOWED_US, share * slower))


class _Series:
    """Sealed calls of one kind, microseconds by side."""

    def __init__(self, allowed_us: float, waking: float = 0.0, most_trip_us: float = math.inf) -> None:
        self.allowed_us, self.waking, self.most_trip_us = allowed_us, waking, most_trip_us
        self.calls: dict[str, list[float]] = {}

    def add(self, side: Side, times: Sequence[float]) -> None:
        if times:
            self.calls.setdefault(side.name, []).extend(times)

    def judge(self, candidate: Side, baseline: Side) -> Sealing:
        sealed = self.calls[candidate.name], self.calls[baseline.name]
        late = lower_quartile(sealed[1])[1] - lower_quartile(baseline.samples_us)[1]
        judged = judge_calls(*sealed, candidate.samples_us, baseline.samples_us, self.allowed_us, self.most_trip_us)
        return judged._replace(late_us=self.waking * late)


def judge_calls(
    candidate: Sequence[float], baseline: Sequence[float], ring_candidate: Sequence[float], ring_baseline: Sequence[float],
    allowed_us: float, most_trip_us: float = math.inf,
) -> Sealing:
    """By how much sealed calls of the candidate are slower than its calls in a row, in microseconds.

    The smaller of two estimates counts: against the baseline, ``(C - B) - (c - b)``, which knows the round trip of a lone call, and on its
    own, ``C - c``, which knows that a busy host stretches rows of calls and their differences, but not the best of some lone calls. Where
    ``B - b`` is more than `most_trip_us`, only the second does: what makes the baseline late need not have made the candidate late.
    """
    against = _combine([(1, candidate), (-1, baseline), (-1, ring_candidate), (1, ring_baseline)])
    alone = _combine([(1, candidate), (-1, ring_candidate)])
    trip = lower_quartile(baseline)[1] - lower_quartile(ring_baseline)[1]
    low, excess, high = map(min, against, alone) if trip <= most_trip_us else alone
    return Sealing(len(candidate), excess, low, high, allowed_us, busy=trip > most_trip_us)


def _combine(terms: Sequence[tuple[int, Sequence[float]]]) -> tuple[float, float, float]:
    """A sum of lower quartiles with signs, between the ends of its interval."""
    quartiles = [(sign, *lower_quartile(samples)) for sign, samples in terms]
    total = sum(sign * middle for sign, _, middle, _ in quartiles)
    down = math.hypot(*(middle - low if sign > 0 else high - middle for sign, low, middle, high in quartiles))
    up = math.hypot(*(high - middle if sign > 0 else middle - low for sign, low, middle, high in quartiles))
    return total - down, total, total + up


def scored_us(ring: Sequence[float], baseline: Sequence[float], sealing: Sealing) -> list[float]:
    """What scores of the candidate's time per call, round by round, in microseconds.

    While noise leaves open whether calls in a row are more than twice as fast as sealed ones, it is not believed to beat the baseline.

    Args:
        ring: Time per call in a row, by round.
        baseline: The same of the best baseline.
        sealing: Of these two.
    """
    times = [us + sealing.added_us for us in ring]
    if sealing.resolved or sealing.added_us <= statistics.median(ring):
        return times
    return [max(us, other) for us, other in zip(times, baseline, strict=True)]


def lower_quartile(samples: Sequence[float]) -> tuple[float, float, float]:
    """A lower quartile between the order statistics that hold it in 97.5 % of cases (at most the extremes), whatever the distribution."""
    ordered, count = sorted(samples), len(samples)
    spread = _QUANTILE * math.sqrt(count * 3) / 4
    low, high = math.floor(count / 4 - spread), math.ceil(count / 4 + spread)
    return ordered[max(low, 0)], ordered[(count - 1) // 4], ordered[min(high, count - 1)]
