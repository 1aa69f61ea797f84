"""How sealed calls are made (see `sealed`): one alone, or a few in a run.

Whatever the way: while every process of the worker is stopped the judge writes entries that nobody has seen into more slots than will be
called, empties the cache, and only "go" says which slot comes next. Every output of a worker that is verified is compared.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from .answers import TimedFailure
from .cases import Case
from .profile import BLOCK_SECONDS, Profiler
from .side import Side, blamed

LONE_SLOTS = 4
"""Slots of which one may hold the next lone call."""
AHEAD_US = 400.0
"""What it must take at least to compute all slots of a run ahead."""
LEAST_SLOTS = 16
MOST_SLOTS = 256
RUN_CALLS = (6, 10)
"""Calls of a run, where there are three times as many slots."""


class Sealer(Protocol):
    """A way to make sealed calls."""

    def time(self, side: Side, number: int) -> list[float]:
        """Microseconds of the calls that belong to pair `number`, in order."""
        ...


class Runs:
    """A few calls in a row, each revealed on its own, on sets drawn anew, among slots whose sets moved and were rearranged."""

    def __init__(self, profiler: Profiler, slots: int) -> None:
        self._profiler, self._slots = profiler, slots

    def time(self, side: Side, number: int) -> list[float]:
        """See `Sealer.time`."""
        profiler, ring = self._profiler, side.ring
        run = self._choose(_length(profiler, self._slots), renew=side.answers is not None)
        profiler.turns.give(side.session)
        ring.refill(profiler.held(side), 0, number % 2)
        times = timed(profiler, side, run, lambda: ring.refill(profiler.held(side), self._slots, number % 2))
        if side.answers is not None:
            copies = [ring.snapshot(slice(slot, slot + 1)) for slot in run]
            together = {name: torch.cat([each[name] for each in copies]) for name in copies[0]}
            side.answers.check(profiler.held(side), run, together)
        return times

    def _choose(self, length: int, renew: bool) -> list[int]:
        """The slots to call. Where it matters the ring is to hold something else first, and these a set drawn anew: nothing known helps."""
        profiler = self._profiler
        order = torch.randperm(self._slots, generator=profiler.secret)
        if renew:
            fresh = profiler.rearrange(self._slots, length).kept[order]
            order = torch.cat([order[fresh], order[~fresh]])
        run: list[int] = order[torch.randperm(length, generator=profiler.secret)].tolist()
        return run


class Drawn:
    """Calls on entries drawn anew: one at a time, or a run of them.

    Metadata stays in its slot: that is why a candidate that plans has no `Runs`.
    """

    def __init__(self, profiler: Profiler, slots: int, *, lone: bool) -> None:
        self._profiler, self._slots, self._lone = profiler, slots, lone

    def time(self, side: Side, number: int) -> list[float]:
        """See `Sealer.time`."""
        profiler, ring = self._profiler, side.ring
        order = torch.randperm(self._slots, generator=profiler.secret).tolist()
        run = order[: 1 if self._lone else _length(profiler, self._slots)]
        filled = run if self._lone else order  # in a run what is not called must be as new as what is
        cases = {slot: draw(profiler, side, slot, oracle=side.answers is not None and slot in run) for slot in filled}
        profiler.turns.give(side.session)
        ring.refill(profiler.held(side), 0, number % 2)

        def seal() -> None:
            for slot, case in cases.items():
                ring.put(slot, case, number % 2)

        times = timed(profiler, side, run, seal)
        if side.answers is not None:
            for slot in run:
                side.answers.compare({0: cases[slot]}, ring.snapshot(slice(slot, slot + 1)))
        return times


def start(profiler: Profiler, candidate: Side, baseline: Side) -> Sealer:
    """Make both sides ready for sealed calls.

    Runs are for devices that need them, and for slots enough: with fewer, calls take so long that a lone one tells enough.
    """
    slower = max(statistics.median(candidate.samples_us), statistics.median(baseline.samples_us))
    most = min(2 * candidate.calls, 2 * baseline.calls, MOST_SLOTS)
    lone = not profiler.device.seals_runs or most < LEAST_SLOTS
    slots = min(LONE_SLOTS if lone else max(int(AHEAD_US / max(slower, 1e-3)), 3 * RUN_CALLS[1]), most)
    for side in (candidate, baseline):
        profiler.turns.give(side.session)
        with blamed(side):
            profiler.arm_single(side, slots)
    return Drawn(profiler, slots, lone=lone) if lone or candidate.replans else Runs(profiler, slots)


def _length(profiler: Profiler, slots: int) -> int:
    length = int(torch.randint(RUN_CALLS[0], RUN_CALLS[1] + 1, (1,), generator=profiler.secret))
    return min(length, slots // 3)


def draw(profiler: Profiler, side: Side, slot: int, *, oracle: bool) -> Case:
    """An entry that nobody has seen, with the metadata that the slot holds."""
    metadata = profiler.sets.metadata(profiler.held(side), slice(slot, slot + 1))
    return profiler.sets.entry(slot, profiler.sets.draw(slot), {name: values[0] for name, values in metadata.items()}, oracle=oracle)


def timed(profiler: Profiler, side: Side, slots: Sequence[int], seal: Callable[[], None]) -> list[float]:
    """Microseconds of sealed calls in these slots, after a call that wakes the worker and is verified here."""
    ring, device, spare = side.ring, profiler.device, profiler.sets.geometry.slots
    positions = ring.secret_words([*slots, spare], profiler.secret)
    woken: list[dict[str, torch.Tensor]] = []

    def last() -> None:
        woken.append(ring.snapshot(slice(spare, spare + 1)))
        seal()
        device.flush()
        device.settle()

    with profiler.turns.alone(), blamed(side):
        device.settle()
        sequences = [0, *(1 + slot for slot in slots)]
        times, words = side.session.time(sequences, BLOCK_SECONDS, lambda: ring.gather(positions), last, len(slots))
    if not torch.equal(words, ring.gather(positions)):
        raise TimedFailure("a sealed output changed after the worker had said that it was done", tampered=True)
    if side.answers is not None:
        side.answers.check(profiler.held(side), slice(spare, spare + 1), woken[0])
    return [seconds * 1e6 for seconds in times[1:]]
