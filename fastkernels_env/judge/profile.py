"""The profile stage: candidate and baselines in turn, under the judge's clock, every timed output verified.

One round times K and 2K calls of every side, in the order A B ... and then backwards; the slope ``(t(2K) - t(K)) / K`` is the time per
call. Before every block the ring is refilled (see `ring`); after it the outputs are copied to private memory. An output that is
bit-identical to one already verified for the same inputs is right; any other is compared with the oracle.

Metadata moves with its input set, so a submission that plans does so again before every block. A baseline that plans is trusted: it keeps
one assignment of sets to slots and plans once.
"""

from __future__ import annotations

import math
import secrets
import time
from typing import TYPE_CHECKING

import msgspec
import torch

from ..device import Arena, Device
from .cases import derive_seed
from .errors import WorkerError
from .ring import InputSets, Ring
from .verify import POISONS, compare_output

if TYPE_CHECKING:
    from .session import WorkerSession

BLOCK_SECONDS = 30.0
LEAST_SHARE = 0.25
SLOW_CALLS = 2
"""K for a side that is so slow that precision does not matter."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How much to measure.

    Attributes:
        rounds: Rounds, if time allows.
        least: Rounds below which no time limit stops the measurement.
        seconds: Budget of one workload.
    """

    rounds: int
    least: int
    seconds: float


class Side:
    """One contestant on one workload: a worker, its ring, what it did."""

    def __init__(self, name: str, session: WorkerSession, ring: Ring, verified: bool) -> None:
        self.name, self.session, self.ring = name, session, ring
        self.verify = verified
        self.samples_us: list[float] = []
        self.setup_us: dict[str, float] = {}
        self.mode = ""
        self.calls = ring.sets.geometry.calls
        self.replans = False
        self.order: torch.Tensor | None = None
        """The assignment of sets to slots that a planning baseline keeps."""
        self.known: dict[str, torch.Tensor] = {}
        """Verified outputs by name, ``[P, ...]`` by input set; valid where `seen`."""
        self.seen = torch.zeros(ring.sets.geometry.slots, dtype=torch.bool, device=ring.arena.view.device)


class TimedFailure(Exception):
    """A timed output was wrong. `tampered` says that the evidence cannot be an honest mistake."""

    def __init__(self, detail: str, tampered: bool) -> None:
        super().__init__(detail)
        self.detail, self.tampered = detail, tampered


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
        """Bind a worker to a ring, run every slot once (untimed), verify what it wrote, arm the timed sequences.

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
        try:
            self._prepare(side)
        except WorkerError as error:
            raise SideError(name, error) from error
        return side

    def _prepare(self, side: Side) -> None:
        session = side.session
        slots = self.sets.geometry.slots
        session.attach(side.ring.arena)
        session.bind(side.ring.calls())
        order = self.sets.shuffle(self.generator)
        self._refill(side, order, slots, 0)
        side.setup_us = session.setup(range(slots), BLOCK_SECONDS)
        side.order = order if side.replans and not side.verify else None
        session.run([0], BLOCK_SECONDS)
        self._size(side, self._estimate(session, slots))
        self._refill(side, order, 2 * side.calls, 0)  # in-place operations have already consumed their inputs
        session.run(range(2 * side.calls), BLOCK_SECONDS)
        self._check(side, order, 2 * side.calls, side.ring.snapshot(2 * side.calls))
        self._arm(side)

    def _refill(self, side: Side, order: torch.Tensor, count: int, poison: int) -> None:
        side.ring.refill(order, count, poison)
        self.device.synchronize()

    @staticmethod
    def _estimate(session: WorkerSession, slots: int) -> float:
        """Seconds per call, roughly: one call, then a few if one is quick."""
        start = time.perf_counter()
        session.run([1], BLOCK_SECONDS)
        single = time.perf_counter() - start
        if single > 0.02:
            return single
        start = time.perf_counter()
        session.run(range(min(slots, 64)), BLOCK_SECONDS)
        return (time.perf_counter() - start) / min(slots, 64)

    def _size(self, side: Side, call_seconds: float) -> None:
        """Give a slow side fewer calls, so that its blocks fit the budget."""
        blocks = 3 * self.plan.least
        fits = int(self.plan.seconds / max(blocks * call_seconds, 1e-9))
        side.calls = max(min(side.calls, fits), SLOW_CALLS)

    def _arm(self, side: Side) -> None:
        sequences = [list(range(side.calls)), list(range(2 * side.calls))]
        side.mode = side.session.arm(sequences, self.device.graph, BLOCK_SECONDS)

    def measure(self, sides: list[Side]) -> None:
        """Run the rounds; appends to every side's samples.

        Raises:
            TimedFailure: A timed output of the candidate was wrong.
            SideError: A side raised, died or hung.
        """
        start = time.perf_counter()
        for number in range(self.plan.rounds):
            if number >= self.plan.least and time.perf_counter() - start > self.plan.seconds:
                break
            order = self.sets.shuffle(self.generator)
            for side in sides if number % 2 == 0 else sides[::-1]:
                try:
                    own = order if side.order is None else side.order
                    times = [self._block(side, own, sequence, number) for sequence in (0, 1)]
                except WorkerError as error:
                    raise SideError(side.name, error) from error
                side.samples_us.append(_slope(times[0], times[1], side.calls) * 1e6)

    def _block(self, side: Side, order: torch.Tensor, sequence: int, number: int) -> float:
        count = side.calls * (sequence + 1)
        poison = number % len(POISONS)
        self._refill(side, order, count, poison)
        if side.replans and side.order is None:
            side.session.setup(range(count), BLOCK_SECONDS)
            self._arm(side)
            self._refill(side, order, count, poison)  # arming runs the calls
        positions = side.ring.secret_words(count, self.secret)
        self.device.settle()
        elapsed, words = side.session.time(sequence, BLOCK_SECONDS, lambda: side.ring.gather(positions))
        snapshot = side.ring.snapshot(count)
        if not torch.equal(words, side.ring.gather(positions)):
            raise TimedFailure("outputs changed after the worker had said that it was done", tampered=True)
        self._check(side, order, count, snapshot)
        return elapsed

    def _check(self, side: Side, order: torch.Tensor, count: int, snapshot: dict[str, torch.Tensor]) -> None:
        """Compare a block's outputs with what is known to be right, else with the oracle."""
        if not side.verify:
            return
        doubtful = ~side.seen[order[:count]]
        for name, copies in snapshot.items():
            if name not in side.known:
                side.known[name] = torch.empty((len(side.seen), *copies.shape[1:]), dtype=copies.dtype, device=copies.device)
            doubtful |= ~_known(copies, side.known[name], order[:count])
        for slot in doubtful.nonzero().flatten().tolist():
            self._verify(side, int(order[slot]), slot, snapshot)

    def _verify(self, side: Side, index: int, slot: int, snapshot: dict[str, torch.Tensor]) -> None:
        case = self.sets.case(index)
        for name, copies in snapshot.items():
            result = compare_output(self.sets.task, case, name, copies[slot])
            if not result.ok:
                self._fail(side, name, slot, copies, result.describe())
            side.known[name][index] = copies[slot]
        side.seen[index] = True

    def _fail(self, side: Side, name: str, slot: int, copies: torch.Tensor, detail: str) -> None:
        """A wrong timed output is a lie if it is the answer to other inputs or if nothing was written; else it is an honest error."""
        where, actual = f"{name} of {self.sets.workload.name}", copies[slot]
        old = side.known[name][side.seen]
        others = torch.cat([copies[:slot], copies[slot + 1 :]])
        if any(bool((actual == poison).all()) for poison in POISONS) or bool(torch.isnan(actual).all()):
            raise TimedFailure(f"a timed call wrote nothing to {where}", tampered=True)
        if bool(_rows_equal(old, actual.expand_as(old)).any()) or bool(_rows_equal(others, actual.expand_as(others)).any()):
            raise TimedFailure(f"a timed call gave {where} the answer that belongs to other inputs", tampered=True)
        raise TimedFailure(f"a timed call was wrong: {where}: {detail}", tampered=False)


def _slope(short: float, long: float, calls: int) -> float:
    """Seconds per call from the times of K and 2K calls.

    Noise can bend a slope, even below zero. The constant part of a block is small against its work, so a slope under a quarter of the
    plain mean ``long / 2K`` is noise, and that quarter is what counts.
    """
    return max((long - short) / calls, LEAST_SHARE * long / (2 * calls))


def _known(copies: torch.Tensor, known: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """For each slot, whether its output is bit-identical to the one stored for its input set."""
    if copies.is_cuda:
        return _rows_equal(copies, known[order])
    pairs = zip(_bits(copies), order.tolist(), strict=True)
    stored = _bits(known)
    return torch.tensor([torch.equal(row, stored[index]) for row, index in pairs])


def _rows_equal(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """For each index of dimension 0, whether all bytes are equal (NaN equals NaN)."""
    same = _bits(a) == _bits(b)
    return same.reshape(a.shape[0], math.prod(a.shape[1:])).all(1)  # not -1: there may be no rows


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.dtype.itemsize])
