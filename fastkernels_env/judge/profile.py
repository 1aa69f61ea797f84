"""The profile stage: candidate and baselines in turn, under the judge's clock, every timed output verified.

One round times K and 2K calls of every side, in the order A B ... and then backwards. A block takes ``c + n s``: the constant ``c``
(telling the worker, gathering its words) and n calls. The plain slope ``(t(2K) - t(K)) / K`` would leave the candidate a lever, since
being slow in the short block only makes it flatter, and it triples the noise of a block. So ``c`` comes from lone calls of the trusted
sides, and every second that the candidate spends counts: its time per call is ``(t(K) + t(2K) - 2c) / 3K``. Right before each block the
worker makes two lone calls in a spare slot: the first wakes it, the second is timed.

Before every block the ring is refilled (see `ring`); after it the outputs are copied to private memory and verified (see `answers`).

Metadata moves with its input set, so a submission that plans does so again before every block. A baseline that plans is trusted: it keeps
one assignment of sets to slots and plans once.
"""

from __future__ import annotations

import contextlib
import math
import secrets
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec
import torch

from ..device import Arena, Device
from .answers import Answers, TimedFailure
from .cases import derive_seed
from .errors import WorkerError
from .ring import InputSets, Ring
from .verify import POISONS

if TYPE_CHECKING:
    from .session import WorkerSession

BLOCK_SECONDS = 30.0
OUTCLASSED = 1.5
"""A trusted side this many times slower than the best of them is timed in the first rounds only: it is the best that counts."""
_OUTCLASSED_AFTER = 2
MOST_CONSTANT = 0.5
"""Largest share of the shortest block that can be its constant part."""
SLOW_CALLS = 2
"""K for a side that is so slow that precision does not matter."""
_SHORT, _LONG, _LONE = range(3)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How much to measure.

    Attributes:
        rounds: Rounds, if time allows.
        least: Rounds below which no time limit stops the measurement.
        seconds: Budget of one workload.
        caches: The K calls of a block touch this many times the last-level cache.
    """

    rounds: int
    least: int
    seconds: float
    caches: float = 2.0


class Side:
    """One contestant on one workload: a worker, its ring, what it did."""

    def __init__(self, name: str, session: WorkerSession, ring: Ring, verified: bool) -> None:
        self.name, self.session, self.ring = name, session, ring
        self.seconds: dict[int, list[float]] = {_SHORT: [], _LONG: [], _LONE: []}
        """Times of the blocks of K and of 2K calls, one each per round, and of the lone call before every one of them."""
        self.samples_us: list[float] = []
        """Time per call, one sample per round."""
        self.setup_us: dict[str, float] = {}
        self.mode = ""
        self.calls = ring.sets.geometry.calls
        self.replans = False
        self.order: torch.Tensor | None = None
        """The assignment of sets to slots that a planning baseline keeps."""
        self.answers = Answers(ring.sets) if verified else None

    def kept(self, order: torch.Tensor) -> torch.Tensor:
        """The assignment that counts for this side: its own where it keeps one, else `order`."""
        return order if self.order is None else self.order


class SideError(Exception):
    """A side's worker raised, died or hung while the workload was measured."""

    def __init__(self, side: str, error: WorkerError) -> None:
        super().__init__(f"{side}: {error.summary}")
        self.side, self.error = side, error


class Profiler:
    """Measures one workload over all sides.

    Args:
        device: The judge's device.
        sets: Input sets.
        plan: Rounds and budget.
        seed: Of the assignments of sets to slots.
    """

    def __init__(self, device: Device, sets: InputSets, plan: Plan, seed: int) -> None:
        self.device, self.sets, self.plan = device, sets, plan
        self.generator = torch.Generator().manual_seed(derive_seed(seed, "order"))
        self.secret = torch.Generator().manual_seed(secrets.randbits(62))

    def open_side(self, name: str, session: WorkerSession, arena: Arena, *, verified: bool, replans: bool) -> Side:
        """Bind a worker to a ring; where it is verified, run every slot once (untimed) and check what it wrote; arm the timed sequences.

        Args:
            name: Shown in errors.
            session: Worker with its artefact loaded and nothing attached.
            arena: Of at least the geometry's size.
            verified: Whether outputs are compared with the oracle (the candidate's always are).
            replans: Whether `plan` must run again after every refill.

        Raises:
            TimedFailure: An output was wrong.
            SideError: The worker raised, died or hung.
        """
        side = Side(name, session, Ring(self.sets, arena), verified)
        side.replans = replans
        with _blamed(side):
            self._prepare(side)
        return side

    def _prepare(self, side: Side) -> None:
        session = side.session
        slots = self.sets.geometry.slots
        session.attach(side.ring.arena)
        session.bind(side.ring.calls())
        order = self.sets.shuffle(self.generator)
        self._refill(side, order, slots, 0)
        side.setup_us = session.setup(range(slots + 1), BLOCK_SECONDS)
        side.order = order if side.replans and side.answers is None else None
        session.run([0], BLOCK_SECONDS)
        side.calls = self._fitting(self._estimate(session, slots))
        self._rehearse(side, order)

    def _rehearse(self, side: Side, order: torch.Tensor) -> None:
        """Run every call once, untimed, where its output is checked or a graph is captured from it; arm the timed sequences."""
        if side.answers is not None or self.device.graph:
            self._refill(side, order, 2 * side.calls, 0)  # in-place operations have consumed their inputs
            side.session.run([*range(2 * side.calls), self.sets.geometry.slots], BLOCK_SECONDS)
        if side.answers is not None:
            side.answers.check(order, side.ring.snapshot(2 * side.calls))
        self._arm(side)

    def _refill(self, side: Side, order: torch.Tensor, count: int, poison: int) -> None:
        side.ring.refill(order, count, poison)
        self.device.synchronize()

    @staticmethod
    def _estimate(session: WorkerSession, slots: int) -> float:
        """Seconds per call, roughly: the quicker of two, then a few if it is quick."""
        single = math.inf
        for slot in (1, 2):
            start = time.perf_counter()
            session.run([slot], BLOCK_SECONDS)
            single = min(single, time.perf_counter() - start)
        if single > 0.02:
            return single
        start = time.perf_counter()
        session.run(range(min(slots, 64)), BLOCK_SECONDS)
        return (time.perf_counter() - start) / min(slots, 64)

    def _fitting(self, call_seconds: float) -> int:
        """K for a side whose calls take that long: that of the ring, or fewer, so that its blocks fit the budget."""
        blocks = 3 * self.plan.least
        fits = int(self.plan.seconds / max(blocks * call_seconds, 1e-9))
        return max(min(self.sets.geometry.calls, fits), SLOW_CALLS)

    def _arm(self, side: Side) -> None:
        sequences = [list(range(side.calls)), list(range(2 * side.calls)), [self.sets.geometry.slots]]
        side.mode = side.session.arm(sequences, self.device.graph, BLOCK_SECONDS)

    def measure(self, sides: list[Side]) -> None:
        """Run the rounds; fills every side's samples.

        Args:
            sides: The one that is judged first, then the trusted ones.

        Raises:
            TimedFailure: A timed output of the candidate was wrong.
            SideError: A side raised, died or hung.
        """
        self._rounds(sides)
        if self._feigned(sides[0]):
            self._lengthen(sides[0])
            self._rounds(sides)
        constant = constant_part(sides)
        for side in sides:
            pairs = zip(side.seconds[_SHORT], side.seconds[_LONG], strict=True)
            side.samples_us = [(short + long - 2 * constant) / (3 * side.calls) * 1e6 for short, long in pairs]

    def _rounds(self, sides: list[Side]) -> None:
        """Long blocks that are not counted, in which every slot is touched and caches and clocks settle, then the rounds that are."""
        self._round(sides, 0, (_LONG,))
        for side in sides:
            side.seconds = {_SHORT: [], _LONG: [], _LONE: []}
        start = time.perf_counter()
        contest = sides
        for number in range(self.plan.rounds):
            if number >= self.plan.least and time.perf_counter() - start > self.plan.seconds:
                break
            if number == _OUTCLASSED_AFTER:
                contest = [sides[0], *_in_contention(sides[1:])]
            self._round(contest, number)

    def _round(self, sides: list[Side], number: int, sequences: tuple[int, ...] = (_SHORT, _LONG)) -> None:
        order = self.sets.shuffle(self.generator)
        for side in sides if number % 2 == 0 else sides[::-1]:
            own = side.kept(order)
            with _blamed(side):
                for sequence in sequences:
                    self._block(side, own, sequence, number)

    def _feigned(self, side: Side) -> bool:
        """Whether a side that has a short ring, since it was slow before, was not slow under the clock."""
        blocks = zip(side.seconds[_SHORT], side.seconds[_LONG], strict=True)
        return self._fitting(statistics.median(short + long for short, long in blocks) / (3 * side.calls)) >= 2 * side.calls

    def _lengthen(self, side: Side) -> None:
        """Give a side the whole ring."""
        side.calls = self.sets.geometry.calls
        order = side.kept(self.sets.shuffle(self.generator))
        with _blamed(side):
            self._refill(side, order, 2 * side.calls, 0)
            if side.replans:
                side.session.setup([*range(2 * side.calls), self.sets.geometry.slots], BLOCK_SECONDS)
            self._rehearse(side, order)

    def _block(self, side: Side, order: torch.Tensor, sequence: int, number: int) -> None:
        count = side.calls * (1 + sequence)
        poison = number % len(POISONS)
        self._refill(side, order, count, poison)
        if side.replans and side.order is None:
            side.session.setup([*range(count), self.sets.geometry.slots], BLOCK_SECONDS)
            self._arm(side)
            self._refill(side, order, count, poison)  # arming runs the calls
        positions = side.ring.secret_words(count, self.secret)
        self.device.settle()
        times, words = side.session.time((_LONE, _LONE, sequence), BLOCK_SECONDS, lambda: side.ring.gather(positions))
        snapshot = side.ring.snapshot(count)
        if not torch.equal(words, side.ring.gather(positions)):
            raise TimedFailure("outputs changed after the worker had said that it was done", tampered=True)
        if side.answers is not None:
            side.answers.check(order, snapshot)
        side.seconds[_LONE].append(times[1])
        side.seconds[sequence].append(times[2])


def _in_contention(sides: Sequence[Side]) -> list[Side]:
    """Those of the trusted sides that may still be the best."""
    quickest = [min(side.seconds[_LONG]) / side.calls for side in sides]
    return [side for side, best in zip(sides, quickest, strict=True) if best <= OUTCLASSED * min(quickest)]


def constant_part(sides: Sequence[Side]) -> float:
    """Seconds of a block that do not depend on its calls, from the trusted sides: a lone call less its share of 2K calls.

    Args:
        sides: The judged one first; it can only make this smaller, by a short block that is.
    """
    parts = []
    for side in sides[1:]:
        lone, long = statistics.median(side.seconds[_LONE]), statistics.median(side.seconds[_LONG])
        parts.append(lone - (long - lone) / (2 * side.calls - 1))
    shortest = min(min(side.seconds[_SHORT]) for side in sides)
    return min(max(statistics.median(parts), 0.0), MOST_CONSTANT * shortest)


@contextlib.contextmanager
def _blamed(side: Side) -> Iterator[None]:
    """Name the side whose worker failed."""
    try:
        yield
    except WorkerError as error:
        raise SideError(side.name, error) from error
