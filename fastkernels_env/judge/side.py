"""A contestant on one workload: its worker and its ring, the times of its blocks and what they say together."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from .errors import WorkerError
from .ring import Ring
from .sets import Arrangement

if TYPE_CHECKING:
    from .answers import Answers
    from .session import WorkerSession

OUTCLASSED = 1.5
"""A trusted side this many times slower than the best of them is timed in the first rounds only: it is the best that counts."""
MOST_CONSTANT = 0.5
"""Largest share of the shortest block that can be its constant part."""
SHORT, LONG, WAKE, LONE, TORN = range(5)
"""Armed sequences of a side that is timed in blocks; from the last number on they are beginnings of the long one with calls left out."""

Written = tuple[slice, dict[str, torch.Tensor]]
"""Slots, and private copies of their outputs by name."""


class Side:
    """One contestant on one workload: a worker, its ring, what it did."""

    def __init__(self, name: str, session: WorkerSession, ring: Ring, answers: Answers | None) -> None:
        self.name, self.session, self.ring = name, session, ring
        self.seconds: dict[int, list[float]] = {SHORT: [], LONG: [], LONE: []}
        """Times of the blocks of K and of 2K calls, one each per round, and of the lone call before every one of them."""
        self.samples_us: list[float] = []
        """Time per call, one sample per round."""
        self.setup_us: dict[str, float] = {}
        self.mode = ""
        self.calls = ring.sets.geometry.calls
        self.replans = self.graph = False
        self.torn: list[list[int]] = []
        """Slots of the calls that each torn sequence makes."""
        self.tried = 0
        """How many torn blocks ran since it was armed."""
        self.fixed: Arrangement | None = None
        """What the ring of a planning baseline always holds."""
        self.answers = answers
        """Where its outputs are verified."""


class SideError(Exception):
    """A side's worker raised, died or hung while the workload was measured."""

    def __init__(self, side: str, error: WorkerError) -> None:
        super().__init__(f"{side}: {error.summary}")
        self.side, self.error = side, error


def in_contention(sides: Sequence[Side]) -> list[Side]:
    """Those of the trusted sides that may still be the best."""
    quickest = [min(side.seconds[LONG]) / side.calls for side in sides]
    return [side for side, best in zip(sides, quickest, strict=True) if best <= OUTCLASSED * min(quickest)]


def constant_part(sides: Sequence[Side]) -> float:
    """Seconds of a block that do not depend on its calls, from the trusted sides: a lone call less its share of 2K calls.

    Args:
        sides: The judged one first; it can only make this smaller, by a short block that is.
    """
    parts = []
    for side in sides[1:]:
        lone, long = statistics.median(side.seconds[LONE]), statistics.median(side.seconds[LONG])
        parts.append(lone - (long - lone) / (2 * side.calls - 1))
    shortest = min(min(side.seconds[SHORT]) for side in sides)
    return min(max(statistics.median(parts), 0.0), MOST_CONSTANT * shortest)


@contextlib.contextmanager
def blamed(side: Side) -> Iterator[None]:
    """Name the side whose worker failed."""
    try:
        yield
    except WorkerError as error:
        raise SideError(side.name, error) from error
