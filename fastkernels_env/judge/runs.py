"""How sealed calls are made (see `sealed`): one alone, or a few in a run.

Whatever the way: while every process of the worker is stopped the judge writes entries that nobody has seen into more slots than will be
called, empties the cache, and only "go" says which slot comes next. Every output of a worker that is verified is compared.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from .answers import Answers, TimedFailure
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

Copies = list[dict[str, torch.Tensor]]
"""Private copies of outputs by name, one for each call."""


class Sealed:
    """Calls of one side that are ready to be made, once. What they write is copied at once and compared when nothing is timed.

    Args:
        profiler: Measures the workload.
        side: The side.
        slots: Where the calls are made, in order.
        poison: Pattern for the outputs of the call that wakes the worker.
        seal: Fills the ring while every process of the worker is stopped.
        compare: Verifies what the calls wrote; called if the side is judged.
    """

    def __init__(
        self, profiler: Profiler, side: Side, slots: Sequence[int], poison: int, seal: Callable[[], None],
        compare: Callable[[Answers, Copies], None],
    ) -> None:
        self._profiler, self._side, self._slots, self._seal, self._compare = profiler, side, slots, seal, compare
        self._held, self._spare = profiler.held(side), profiler.sets.geometry.slots
        self._woken: Copies = []
        self._copies: Copies = []
        side.ring.refill(self._held, 0, poison)

    def time(self) -> list[float]:
        """Microseconds of each call, after a call that wakes the worker and is verified too.

        Raises:
            TimedFailure: An output changed after the worker had said that it was done.
            SideError: The worker raised, died or hung.
        """
        profiler, side, ring = self._profiler, self._side, self._side.ring
        positions = ring.secret_words([*self._slots, self._spare], profiler.secret)
        profiler.turns.give(side.session)
        with profiler.turns.alone(), blamed(side):
            profiler.device.settle()
            sequences = [0, *(1 + slot for slot in self._slots)]
            times, words = side.session.time(sequences, BLOCK_SECONDS, lambda: ring.gather(positions), self._reveal, len(self._slots))
        if side.answers is not None:
            self._copies = [self._copy(slot) for slot in self._slots]
        if not torch.equal(words, ring.gather(positions)):
            raise TimedFailure("a sealed output changed after the worker had said that it was done", tampered=True)
        return [seconds * 1e6 for seconds in times[1:]]

    def _reveal(self) -> None:
        if self._side.answers is not None:
            self._woken = [self._copy(self._spare)]
        self._seal()
        self._profiler.device.flush()
        self._profiler.device.settle()

    def _copy(self, slot: int) -> dict[str, torch.Tensor]:
        return self._side.ring.snapshot(slice(slot, slot + 1))

    def check(self) -> None:
        """Verify what was written, if the side is judged; before its next calls are made ready.

        Raises:
            TimedFailure: An output was wrong.
        """
        if self._side.answers is not None:
            self._side.answers.check(self._held, slice(self._spare, self._spare + 1), self._woken[0])
            self._compare(self._side.answers, self._copies)


class Sealer(Protocol):
    """A way to make sealed calls."""

    def ready(self, side: Side, number: int) -> Sealed:
        """Make ready the calls of a side that belong to pair `number`."""
        ...


class Runs:
    """A few calls in a row, each revealed on its own, on sets drawn anew, among slots whose sets moved and were rearranged."""

    def __init__(self, profiler: Profiler, slots: int) -> None:
        self._profiler, self._slots = profiler, slots

    def ready(self, side: Side, number: int) -> Sealed:
        """See `Sealer.ready`."""
        profiler = self._profiler
        run = self._choose(_length(profiler, self._slots), renew=side.answers is not None)
        held = profiler.held(side)

        def compare(answers: Answers, copies: Copies) -> None:
            answers.check(held, run, {name: torch.cat([copy[name] for copy in copies]) for name in copies[0]})

        return Sealed(profiler, side, run, number % 2, lambda: side.ring.refill(held, self._slots, number % 2), compare)

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

    def ready(self, side: Side, number: int) -> Sealed:
        """See `Sealer.ready`."""
        profiler = self._profiler
        order = torch.randperm(self._slots, generator=profiler.secret).tolist()
        run = order[: 1 if self._lone else _length(profiler, self._slots)]
        filled = run if self._lone else order  # in a run what is not called must be as new as what is
        cases = {slot: draw(profiler, side, slot, oracle=side.answers is not None and slot in run) for slot in filled}

        def seal() -> None:
            for slot, case in cases.items():
                side.ring.put(slot, case, number % 2)

        def compare(answers: Answers, copies: Copies) -> None:
            for slot, copy in zip(run, copies, strict=True):
                answers.compare({0: cases[slot]}, copy)

        return Sealed(profiler, side, run, number % 2, seal, compare)


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
