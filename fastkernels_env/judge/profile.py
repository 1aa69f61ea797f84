"""The profile stage: candidate and baselines in turn, under the judge's clock, every timed output verified.

One round times K and 2K calls of every side, in the order A B ... and then backwards. A block takes ``c + n s``: the constant ``c``
(telling the worker, gathering its words) and n calls. The plain slope ``(t(2K) - t(K)) / K`` would leave the candidate a lever, since
being slow in the short block only makes it flatter, and it triples the noise of a block. So ``c`` comes from lone calls of the trusted
sides, and every second that the candidate spends counts: its time per call is ``(t(K) + t(2K) - 2c) / 3K``. Right before each block the
worker makes two calls in spare slots: the first wakes it, the second is timed alone. They are verified like all others.

While one side is timed the workers of all others are stopped, and so is a submission's own while its ring is refilled. Before every block
of the candidate what the ring holds changes (see `sets`); after it the outputs are copied to private memory and verified (see `answers`).

Metadata moves with its input set, so a submission that plans does so again before every block. A baseline that plans is trusted: it keeps
one arrangement and plans once.
"""

from __future__ import annotations

import math
import secrets
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from ..clock import now
from ..device import Arena, Device
from . import torn
from .answers import Answers, TimedFailure
from .cases import derive_seed
from .effort import Plan
from .ring import Ring
from .sets import Arrangement, InputSets
from .side import LONE, LONG, SHORT, WAKE, Side, Written, blamed, constant_part, in_contention
from .turns import Turns
from .verify import POISONS

if TYPE_CHECKING:
    from .session import WorkerSession

BLOCK_SECONDS = 30.0
_OUTCLASSED_AFTER = 2
SLOW_CALLS = 2
"""K for a side that is so slow that precision does not matter."""
_EAGER_BLOCKS = 3


class Profiler:
    """Measures one workload over all sides.

    Args:
        device: The judge's device.
        sets: Input sets.
        plan: Rounds and budget.
        seed: Of the assignments of sets to slots.
        turns: Stops the workers whose turn it is not.
        limits: As those of `Answers`.

    Attributes:
        clocks: As `Timing.clocks`, after `measure`.
    """

    def __init__(
        self, device: Device, sets: InputSets, plan: Plan, seed: int, turns: Turns, limits: Mapping[str, float] | None = None
    ) -> None:
        self.device, self.sets, self.plan, self.turns = device, sets, plan, turns
        self.generator = torch.Generator().manual_seed(derive_seed(seed, "order"))
        self.secret = torch.Generator().manual_seed(secrets.randbits(62))
        self._arrangement = self._plain = sets.arrange(self.generator, plain=True)
        self._answers = Answers(sets, limits)
        self._renewed = 0.0
        """How many sets are drawn anew before a block, on average; not known until the first outputs were compared."""
        self.clocks: dict[str, float] = {}
        self._before: dict[str, float] = {}
        self._measured = 0

    def held(self, side: Side) -> Arrangement:
        """What the ring of this side holds at present. Only what is verified need be rearranged; the others' sets change places."""
        return side.fixed or (self._plain if side.answers is None else self._arrangement)

    def open_side(
        self, name: str, session: WorkerSession, arena: Arena, *, verified: bool, replans: bool, graph: bool = True
    ) -> Side:
        """Bind a worker to a ring; where it is verified, run every slot once (untimed) and check what it wrote; arm the timed sequences.

        Args:
            name: Shown in errors.
            session: Worker with its artefact loaded; it forgets what is attached.
            arena: Of at least the geometry's size.
            verified: Whether outputs are compared with the oracle (the candidate's always are).
            replans: Whether `plan` must run again after every refill.
            graph: Whether its sequences may be captured into graphs, where the device has them.

        Raises:
            TimedFailure: An output was wrong.
            SideError: The worker raised, died or hung.
        """
        side = Side(name, session, Ring(self.sets, arena), self._answers if verified else None)
        side.replans, side.graph = replans, graph and self.device.graph
        if verified:
            self._arrangement = self.sets.arrange(self.generator, plain=True)
        with blamed(side):
            self._prepare(side)
        return side

    def _prepare(self, side: Side) -> None:
        session, geometry = side.session, self.sets.geometry
        self.turns.give(session)
        session.forget()  # not before: what a submission does while it is another's turn is held against it
        session.attach(side.ring.arena)
        session.bind(side.ring.calls())
        if side.replans and side.answers is None:
            side.fixed = self.sets.frozen(self._plain)
        self.refill(side, geometry.slots, 0)
        side.setup_us = session.setup(range(geometry.entries), BLOCK_SECONDS)
        session.run([0], BLOCK_SECONDS)
        side.calls = self._fitting(self._estimate(session, geometry.slots))
        if side.calls < geometry.calls:  # maybe only since others use the device
            with self.turns.alone():
                side.calls = self._fitting(self._estimate(session, geometry.slots))
        self._rehearse(side)

    def _rehearse(self, side: Side) -> None:
        """Run every call once, untimed, where its output is checked or a graph is captured from it; arm the timed sequences."""
        count = 2 * side.calls
        if side.answers is not None or side.graph:
            self.refill(side, count, 0)  # in-place operations have consumed their inputs
            side.session.run(self._slots(count), BLOCK_SECONDS)
        if side.answers is not None:
            start = now()
            self.check(side, [(part, side.ring.snapshot(part)) for part in side.ring.parts(count)])
            each = (now() - start) / (count + 2)
            self._renewed = self._renewed or min(self.plan.fresh_seconds / max(each, 1e-6), side.calls / 2)
        self.arm(side)

    def _slots(self, count: int) -> list[int]:
        """Slots that a block of `count` calls uses."""
        geometry = self.sets.geometry
        return [*range(count), *range(geometry.slots, geometry.entries)]

    def refill(self, side: Side, count: int, poison: int) -> None:
        """Fill the ring; the side's worker is stopped meanwhile if it is not trusted."""
        if side.answers is not None:
            side.session.pause()
        side.ring.refill(self.held(side), count, poison)
        self.device.synchronize()

    @staticmethod
    def _estimate(session: WorkerSession, slots: int) -> float:
        """Seconds per call, roughly: the quicker of two, then a few if it is quick."""
        single = math.inf
        for slot in (1, 2):
            start = now()
            session.run([slot], BLOCK_SECONDS)
            single = min(single, now() - start)
        if single > 0.02:
            return single
        start = now()
        session.run(range(min(slots, 64)), BLOCK_SECONDS)
        return (now() - start) / min(slots, 64)

    def _fitting(self, call_seconds: float) -> int:
        """K for a side whose calls take that long: that of the ring, or fewer, so that its blocks fit the budget."""
        blocks = 3 * self.plan.least
        fits = int(self.plan.seconds / max(blocks * call_seconds, 1e-9))
        return max(min(self.sets.geometry.calls, fits), SLOW_CALLS)

    def arm(self, side: Side, graph: bool | None = None) -> None:
        """Make the sequences of blocks ready for the clock; as graphs where the side has them, unless `graph` says otherwise."""
        slots, count = self.sets.geometry.slots, 2 * side.calls
        torn.draw(self, side)
        sequences = [list(range(side.calls)), list(range(count)), [slots], [slots + 1], *side.torn]
        mode = side.session.arm(sequences, side.graph if graph is None else graph, BLOCK_SECONDS, unseen=len(side.torn))
        side.mode = mode if graph is None else side.mode

    def arm_single(self, side: Side, slots: int) -> None:
        """Make ready for the clock: a call that wakes the worker, then one call of each of the first `slots` slots."""
        side.session.arm([[self.sets.geometry.slots], *([slot] for slot in range(slots))], side.graph, BLOCK_SECONDS)

    def rearrange(self, count: int, renewed: float) -> Arrangement:
        """Let the candidate's ring hold something else from the next refill on; see `InputSets.arrange`.

        Args:
            count: Calls of the block that follows.
            renewed: How many of its sets are drawn anew; of a fraction chance decides.
        """
        whole = int(renewed + float(torch.rand((), generator=self.secret)))
        self._arrangement = self.sets.arrange(self.generator, count, whole)
        return self._arrangement

    def measure(self, sides: list[Side]) -> None:
        """Run the rounds; fills every side's samples.

        Args:
            sides: The one that is judged first, then the trusted ones.

        Raises:
            TimedFailure: A timed output of the candidate was wrong.
            SideError: A side raised, died or hung.
            NotQuiet: Something keeps the device busy.
        """
        self._rounds(sides)
        if self._feigned(sides[0]):
            self._lengthen(sides[0])
            self._rounds(sides)
        if not self._steady():
            self._rounds(sides)
            self._steady()
        constant = constant_part(sides)
        for side in sides:
            pairs = zip(side.seconds[SHORT], side.seconds[LONG], strict=True)
            side.samples_us = [(short + long - 2 * constant) / (3 * side.calls) * 1e6 for short, long in pairs]

    def _steady(self) -> bool:
        """Whether the device kept its clocks during the rounds; notes them in `clocks`."""
        before, after = self._before, self.device.clocks()
        self._measured += 1
        self.clocks = {f"before_{name}": value for name, value in before.items()} | {f"after_{name}": v for name, v in after.items()}
        if self.clocks:
            self.clocks["measured"] = float(self._measured)
        return self.device.steady(before, after)

    def _rounds(self, sides: list[Side]) -> None:
        """Blocks that are not counted, in which every slot is touched and caches and clocks settle, then the rounds that are."""
        self._round(sides, 0, (LONG,))
        torn.check(self, sides[0])
        self._before = self.device.clocks()
        for side in sides:
            side.seconds = {SHORT: [], LONG: [], LONE: []}
        start = now()
        contest = sides
        for number in range(self.plan.rounds):
            if number >= self.plan.least and now() - start > self.plan.seconds:
                break
            if number == _OUTCLASSED_AFTER:
                contest = [sides[0], *in_contention(sides[1:])]
            self._round(contest, number)
            if float(torch.rand((), generator=self.secret)) < torn.SHARE:
                torn.check(self, sides[0])

    def _round(self, sides: list[Side], number: int, sequences: tuple[int, ...] = (SHORT, LONG)) -> None:
        seen: list[Written] = []
        with self.turns.round(self.device.dear_alone):
            self._plain = self.sets.arrange(self.generator, plain=True)
            for side in sides if number % 2 == 0 else sides[::-1]:
                self.turns.give(side.session)
                with blamed(side):
                    for sequence in sequences:
                        if side.answers is not None:
                            self.check(side, seen)  # what the block before wrote, if it was this side's
                            self.rearrange(side.calls * (1 + sequence), self._renewed)
                        written = self._block(side, sequence, number)
                        seen = written if side.answers is not None else seen
        self.check(sides[0], seen)

    def _feigned(self, side: Side) -> bool:
        """Whether a side that has a short ring, since it was slow before, was not slow under the clock."""
        blocks = zip(side.seconds[SHORT], side.seconds[LONG], strict=True)
        return self._fitting(statistics.median(short + long for short, long in blocks) / (3 * side.calls)) >= 2 * side.calls

    def _lengthen(self, side: Side) -> None:
        """Give a side the whole ring."""
        side.calls = self.sets.geometry.calls
        self.turns.give(side.session)
        with blamed(side):
            self._arrangement = self.sets.arrange(self.generator, plain=True)
            self.refill(side, 2 * side.calls, 0)
            if side.replans:
                side.session.setup(self._slots(2 * side.calls), BLOCK_SECONDS)
            self._rehearse(side)

    def _block(self, side: Side, sequence: int, number: int) -> list[Written]:
        """Time a block; what it wrote, which is to be checked before the ring holds something else."""
        count = side.calls * (1 + sequence)
        self.load(side, count, number % len(POISONS))
        times, seen = self.clocked(side, (WAKE, LONE, sequence), count)
        side.seconds[LONE].append(times[1])
        side.seconds[sequence].append(times[2])
        return seen

    def eager(self, side: Side) -> float:
        """Median microseconds per call in a loop of calls, where the timed sequences are graphs; leaves the side armed that way."""
        self.turns.give(side.session)
        with blamed(side):
            self.arm(side, graph=False)
            times = []
            for number in range(_EAGER_BLOCKS):
                self.load(side, side.calls, number % len(POISONS), graph=False)
                spent, seen = self.clocked(side, (WAKE, LONE, SHORT), side.calls)
                self.check(side, seen)
                times.append((spent[2] - spent[1]) / (side.calls - 1))
        return statistics.median(times) * 1e6

    def load(self, side: Side, count: int, poison: int, graph: bool | None = None) -> None:
        """Fill the ring for a block of `count` calls, and let a side that plans do so."""
        self.refill(side, count, poison)
        if side.replans and side.fixed is None:
            side.session.setup(self._slots(count), BLOCK_SECONDS)
            self.arm(side, graph)
            self.refill(side, count, poison)  # arming runs the calls

    def clocked(self, side: Side, sequences: tuple[int, ...], count: int) -> tuple[list[float], list[Written]]:
        """Run armed sequences that cover a block of `count` calls; their seconds, and what a judged side wrote, by part of the ring.

        Raises:
            TimedFailure: An output changed after "done".
        """
        positions = side.ring.secret_words(self._slots(count), self.secret)
        with self.turns.alone():
            self.device.settle()
            times, words = side.session.time(sequences, BLOCK_SECONDS, lambda: side.ring.gather(positions))
        parts = side.ring.parts(count) if side.answers is not None else ()
        seen = [(part, side.ring.snapshot(part)) for part in parts]
        if not torch.equal(words, side.ring.gather(positions)):
            raise TimedFailure("outputs changed after the worker had said that it was done", tampered=True)
        return times, seen

    def check(self, side: Side, seen: Sequence[Written]) -> None:
        """Verify what a side wrote, if it is judged."""
        if side.answers is not None:
            for part, snapshot in seen:
                side.answers.check(self.held(side), part, snapshot)
