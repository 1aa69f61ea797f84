"""Leases: orders of several ranks get an actor that has as many GPUs of one host, for as long as there are such orders.

An ordinary actor holds one GPU. For a lease some of a node's actors get nothing more to do; when they have answered what they have they
are ended, and one actor takes their room. When no order of several ranks waits it is ended in turn, and ordinary actors start again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable

import ray
from ray.exceptions import RayError

from .handle import Actor, Kind
from .job import Job
from .nodes import nodes, units

_START_SECONDS = 180.0
"""How long an actor of a lease may not answer, before the lease is tried elsewhere."""
_TURN_SECONDS = 120.0
"""After this a lease takes nothing more while ordinary orders wait that nobody else can take; after it they have as long."""


class Leases:
    """At most one lease at a time. Its methods are called with the pool's lock held.

    Args:
        kind: Of the pool's actors.
    """

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._actor: Actor | None = None
        self._node, self._ranks, self._since = "", 0, 0.0
        self._rests_until = 0.0
        self._largest = _largest(kind.unit)

    def wide(self, job: Job) -> bool:
        """Whether an order takes more than an ordinary actor has."""
        return job.ranks > self._kind.width

    def possible(self, job: Job) -> bool:
        """Whether some host of the cluster is large enough, as it was when `tend` was last called."""
        return job.ranks <= self._largest

    @property
    def pending(self) -> bool:
        """Whether room is being made, so that no ordinary actor may take it."""
        return bool(self._node) and (self._actor is None or self._actor.facts is None)

    def tend(self, jobs: Iterable[Job], actors: list[Actor]) -> None:
        """Begin, go on with or end a lease.

        Args:
            jobs: What waits, the oldest first.
            actors: The pool's; the lease's comes and goes here.
        """
        self._largest = _largest(self._kind.unit)
        wide = [job for job in jobs if self.wide(job) and self.possible(job)]
        others = any(not self.wide(job) for job in jobs)
        if not self._node:
            rested = not others or time.monotonic() > self._rests_until
            known = bool(actors) and not any(actor.starting for actor in actors)  # on which node each of them is
            if wide and rested and known:
                self._begin(wide[0].ranks, actors)
        elif self._actor is None:
            self._take_room(actors)
        elif self._over(self._actor, wide, others, actors):
            self._end(actors)

    def _begin(self, ranks: int, actors: list[Actor]) -> None:
        """Choose the node whose actors have the least to do, and let some of them leave."""
        fitting = [str(node["NodeID"]) for node in nodes() if units(node, self._kind.unit) >= ranks]
        busy = {node: sum(len(actor.jobs) for actor in actors if actor.facts and actor.facts.node == node) for node in fitting}
        self._node, self._ranks = min(fitting, key=lambda node: busy[node]), ranks
        there = sorted((actor for actor in actors if actor.facts and actor.facts.node == self._node), key=lambda actor: len(actor.jobs))
        for actor in there[: -(-ranks // self._kind.width)]:
            actor.leaving = True
        self._take_room(actors)

    def _take_room(self, actors: list[Actor]) -> None:
        """Once those that leave have answered, end them and start the lease's."""
        leaving = [actor for actor in actors if actor.leaving]
        if not all(actor.idle for actor in leaving):
            return
        for actor in leaving:
            _kill(actor, actors)
        self._actor = self._kind.start(self._ranks, self._node)
        self._since = time.monotonic()
        actors.append(self._actor)

    def _over(self, actor: Actor, wide: list[Job], others: bool, actors: list[Actor]) -> bool:
        lasted = time.monotonic() - self._since
        if actor.facts is None:
            return lasted > _START_SECONDS and actor.idle  # its host is gone, or cannot
        alone = others and all(other.leased for other in actors)
        actor.leaving = actor.leaving or (alone and lasted > _TURN_SECONDS) or any(job.ranks > actor.width for job in wide)
        return actor.idle and (actor.leaving or not wide)

    def _end(self, actors: list[Actor]) -> None:
        assert self._actor is not None
        _kill(self._actor, actors)
        self._actor, self._node = None, ""
        self._rests_until = time.monotonic() + _TURN_SECONDS


def _kill(actor: Actor, actors: list[Actor]) -> None:
    actors.remove(actor)
    with contextlib.suppress(RayError):
        ray.kill(actor.handle)


def _largest(unit: str) -> int:
    return max((units(node, unit) for node in nodes()), default=0)
