"""Sealed calls: whether calls in a row are as fast as a call that nobody could prepare for.

All entries of a block lie there before "go". They could be computed together, ahead of their turn, or looked up by their content. So some
calls are sealed: while every process of the worker is stopped the judge writes an entry that was never seen before into one of several
slots, empties the cache, and only "go" says which; the worker runs that call alone, and its output is compared with the oracle.

On a GPU the round trip of a lone call hides what a kernel of few microseconds takes. Those are sealed in runs: the whole ring is refilled,
a few of its many slots are called one by one, each revealed by a "go" of its own, and words are gathered after the last. To compute ahead
would mean to compute all slots for a few. The first call and the last contain the switch between the judge's work and the worker's, so they
are judged as a lone call is, and the others on their own.

A lone call is mostly round trip. Candidate and best baseline take turns, so what is compared is their difference: sealed ``C - B`` against
the ring's ``c - b``. By how much the former is larger is the *excess* (see `judge_calls`). Lower quartiles stand for each: a host that is
busy makes some calls slow, never fast. Calls are sampled until the interval of the excess lies under what honest kernels show, or the
budget is spent; then the slower one scores. An excess far above that, seen again in a fresh process, is evidence of cheating.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from .answers import TimedFailure
from .cases import Case
from .profile import BLOCK_SECONDS, Profiler
from .side import Side, blamed

LEAST_PAIRS = 4
MOST_PAIRS = 48
SLOTS = 4
"""Slots of which one may hold the next lone call."""
ALLOWED_US = {"cpu": 60.0, "cuda": 4.0}
"""Excess that honest kernels show in lone calls that take next to nothing (see docs/measurements)."""
RUN_SLOTS = 256
RUN_CALLS = (6, 10)
RUN_ALLOWED_US = 0.7
"""As `ALLOWED_US`, per call inside of a run."""
ALLOWED_SHARE = 0.25
"""The same, as a share of the slower side's time per call."""
ALLOWED_WAKING = {"cpu": 1.0, "cuda": 0.0}
"""The same, as a share of what a lone call takes longer than one in a row for the baseline: on a busy host threads wake late."""
SUSPICIOUS = 2.0
"""An excess whose whole interval is above this many times what is allowed is no honest kernel's."""
COMPANY_US = 40.0
"""What waking one more idle thread or process may delay a sealed call by: 13 us each where 63 children slept on two cores. It is no
evidence of cheating, but it scores."""
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
        company_us: What waking the candidate's idle threads and processes explains beside that.
    """

    pairs: int
    excess_us: float
    low_us: float
    high_us: float
    allowed_us: float
    company_us: float = 0.0

    @property
    def settled(self) -> bool:
        """Whether calls in a row were shown to be no faster than sealed ones."""
        return self.high_us <= self.allowed_us

    @property
    def suspicious(self) -> bool:
        """Whether no honest kernel shows this."""
        return self.low_us > SUSPICIOUS * self.allowed_us + self.company_us

    @property
    def resolved(self) -> bool:
        """Whether it is known which of the two is slower, beyond what honest kernels show."""
        return self.settled or self.low_us > self.allowed_us

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

    Raises:
        TimedFailure: A sealed output of the candidate was wrong.
        SideError: A side raised, died or hung.
    """
    slower = max(statistics.median(candidate.samples_us), statistics.median(baseline.samples_us))
    runs = slower < profiler.device.lone_us and not candidate.replans and not baseline.replans
    slots = min(RUN_SLOTS if runs else SLOTS, 2 * candidate.calls, 2 * baseline.calls)
    for side in (candidate, baseline):
        profiler.turns.give(side.session)
        with blamed(side):
            profiler.arm_single(side, slots)
    kind = profiler.device.kind
    lone = _Series(max(ALLOWED_US[kind], ALLOWED_SHARE * slower), ALLOWED_WAKING[kind])
    inside = _Series(max(RUN_ALLOWED_US, ALLOWED_SHARE * slower))
    start = time.perf_counter()
    for number in range(MOST_PAIRS):
        sides = (candidate, baseline) if number % 2 == 0 else (baseline, candidate)
        if runs:
            _pair_of_runs(profiler, sides, slots, lone, inside, number)
        else:
            _pair(profiler, sides, slots, lone, number)
        if number + 1 < LEAST_PAIRS:
            continue
        result = max((series.judge(candidate, baseline) for series in (lone, inside) if series.calls), key=Sealing.weight)
        result = result._replace(company_us=COMPANY_US * max(candidate.session.tasks() - baseline.session.tasks(), 0))
        budget = profiler.plan.sealed_seconds * (DOUBTFUL if result.excess_us > SUSPICIOUS * result.allowed_us else 1)
        if time.perf_counter() - start > budget or result.settled or result.suspicious:
            break
    return result


class _Series:
    """Sealed calls of one kind, microseconds by side."""

    def __init__(self, allowed_us: float, waking: float = 0.0) -> None:
        self.allowed_us, self.waking = allowed_us, waking
        self.calls: dict[str, list[float]] = {}

    def add(self, side: Side, us: float) -> None:
        self.calls.setdefault(side.name, []).append(us)

    def judge(self, candidate: Side, baseline: Side) -> Sealing:
        sealed = self.calls[candidate.name], self.calls[baseline.name]
        late = lower_quartile(sealed[1])[1] - lower_quartile(baseline.samples_us)[1]
        return judge_calls(*sealed, candidate.samples_us, baseline.samples_us, max(self.allowed_us, self.waking * late))


def judge_calls(
    candidate: Sequence[float], baseline: Sequence[float], ring_candidate: Sequence[float], ring_baseline: Sequence[float],
    allowed_us: float,
) -> Sealing:
    """By how much sealed calls of the candidate are slower than its calls in a row, in microseconds.

    The smaller of two estimates counts: against the baseline, ``(C - B) - (c - b)``, which knows the round trip of a lone call, and on its
    own, ``C - c``, which knows that a busy host stretches rows of calls and their differences, but not the best of some lone calls.
    """
    against = _combine([(1, candidate), (-1, baseline), (-1, ring_candidate), (1, ring_baseline)])
    alone = _combine([(1, candidate), (-1, ring_candidate)])
    low, excess, high = map(min, against, alone)
    return Sealing(len(candidate), excess, low, high, allowed_us)


def _combine(terms: Sequence[tuple[int, Sequence[float]]]) -> tuple[float, float, float]:
    """A sum of lower quartiles with signs, between the ends of its interval."""
    quartiles = [(sign, *lower_quartile(samples)) for sign, samples in terms]
    total = sum(sign * middle for sign, _, middle, _ in quartiles)
    down = math.hypot(*(middle - low if sign > 0 else high - middle for sign, low, middle, high in quartiles))
    up = math.hypot(*(high - middle if sign > 0 else middle - low for sign, low, middle, high in quartiles))
    return total - down, total, total + up


def lower_quartile(samples: Sequence[float]) -> tuple[float, float, float]:
    """A lower quartile between the order statistics that hold it in 97.5 % of cases (at most the extremes), whatever the distribution."""
    ordered, count = sorted(samples), len(samples)
    spread = _QUANTILE * math.sqrt(count * 3) / 4
    low, high = math.floor(count / 4 - spread), math.ceil(count / 4 + spread)
    return ordered[max(low, 0)], ordered[(count - 1) // 4], ordered[min(high, count - 1)]


def _pair(profiler: Profiler, sides: tuple[Side, Side], slots: int, lone: _Series, number: int) -> None:
    """One sealed call of each side, on entries of the same draw."""
    slot = int(torch.randint(slots, (1,), generator=profiler.secret))
    drawn, part = profiler.sets.draw(slot), slice(slot, slot + 1)
    for side in sides:
        held = profiler.held(side)
        metadata = {name: values[0] for name, values in profiler.sets.metadata(held, part).items()}
        case = profiler.sets.entry(slot, drawn, metadata, oracle=side.answers is not None)
        profiler.turns.give(side.session)
        side.ring.refill(held, 0, number % 2)

        def seal(side: Side = side, case: Case = case) -> None:
            side.ring.put(slot, case, number % 2)

        lone.add(side, _timed(profiler, side, [slot], seal)[0])
        if side.answers is not None:
            side.answers.compare(case, 0, side.ring.snapshot(part))


def _pair_of_runs(profiler: Profiler, sides: tuple[Side, Side], slots: int, lone: _Series, inside: _Series, number: int) -> None:
    """A run of sealed calls of each side, some of them on entries drawn anew."""
    length = int(torch.randint(RUN_CALLS[0], RUN_CALLS[1] + 1, (1,), generator=profiler.secret))
    arrangement = profiler.rearrange(slots, length // 4)
    order = torch.randperm(slots, generator=profiler.secret)
    fresh = arrangement.kept.cpu()[:slots][order]
    chosen = torch.cat([order[fresh], order[~fresh]])[:length]
    run: list[int] = chosen[torch.randperm(len(chosen), generator=profiler.secret)].tolist()
    for side in sides:
        profiler.turns.give(side.session)
        side.ring.refill(profiler.held(side), 0, number % 2)

        def seal(side: Side = side) -> None:
            side.ring.refill(profiler.held(side), slots, number % 2)

        first, *others, last = _timed(profiler, side, run, seal)
        lone.add(side, (first + last) / 2)
        inside.add(side, sum(others) / len(others))
        if side.answers is not None:
            for slot in run:
                part = slice(slot, slot + 1)
                side.answers.check(arrangement, part, side.ring.snapshot(part))


def _timed(profiler: Profiler, side: Side, slots: Sequence[int], seal: Callable[[], None]) -> list[float]:
    """Microseconds of sealed calls in these slots, after a call that wakes the worker and is verified here."""
    ring, device, spare = side.ring, profiler.device, profiler.sets.geometry.slots
    positions = ring.secret_words([*slots, spare], profiler.secret)
    woken: list[dict[str, torch.Tensor]] = []

    def last() -> None:
        woken.append(ring.snapshot(slice(spare, spare + 1)))
        seal()
        device.flush()
        device.settle()

    device.settle()
    with blamed(side):
        sequences = [0, *(1 + slot for slot in slots)]
        times, words = side.session.time(sequences, BLOCK_SECONDS, lambda: ring.gather(positions), last, len(slots))
    if not torch.equal(words, ring.gather(positions)):
        raise TimedFailure("a sealed output changed after the worker had said that it was done", tampered=True)
    if side.answers is not None:
        side.answers.check(profiler.held(side), slice(spare, spare + 1), woken[0])
    return [seconds * 1e6 for seconds in times[1:]]
