"""Who of a device's judges may measure: one at a time, in the order in which they asked, while the others are stopped.

To measure takes much memory of the device besides. So only a few at a time hold what they measure with; the others wait for that first.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from typing import Protocol

from ..clock import Stops
from ..sandbox import tree


class Member(Protocol):
    """A judge's process. Compared by identity."""

    pid: int
    stops: Stops


class Arbiter:
    """Grants the device to one member at a time. Thread-safe.

    Args:
        seats: How many may hold what they measure with.
        hurried: Whether a member sees for itself that the device is quiet, so that nobody need wait until all others stand still.

    Attributes:
        seconds: For how long the device was some member's alone.
    """

    def __init__(self, seats: int, hurried: bool = False) -> None:
        self.seconds = 0.0
        self._seats, self._hurried = seats, hurried
        self._seated: list[Member] = []
        self._queue: deque[Member] = deque()
        self._condition = threading.Condition()
        self._members: list[Member] = []
        self._waiting: deque[Member] = deque()
        self._holder: Member | None = None
        self._since = 0.0
        self._frozen: dict[int, list[int]] = {}
        """Processes that were stopped, by id of the member that they belong to."""

    def join(self, member: Member) -> None:
        """A judge started; it is stopped at once while another one measures."""
        with self._condition:
            self._members.append(member)
            if self._holder is not None:
                self._freeze(member)

    def part(self, member: Member) -> None:
        """A judge ended, whatever it was doing."""
        with self._condition:
            self._members = [other for other in self._members if other is not member]
            self._waiting = deque(other for other in self._waiting if other is not member)
            self._queue = deque(other for other in self._queue if other is not member)
            self._frozen.pop(id(member), None)
            self._release(member)
            self._rise(member)

    def sit(self, member: Member) -> None:
        """Wait for a seat."""
        with self._condition:
            self._queue.append(member)
            while len(self._seated) >= self._seats or self._queue[0] is not member:
                self._condition.wait()
            self._queue.popleft()
            self._seated.append(member)
            self._condition.notify_all()

    def rise(self, member: Member) -> None:
        """Give the seat back, if the member has one."""
        with self._condition:
            self._rise(member)

    def _rise(self, member: Member) -> None:
        self._seated = [other for other in self._seated if other is not member]
        self._condition.notify_all()

    def enter(self, member: Member) -> None:
        """Wait for the device, then stop all others."""
        with self._condition:
            self._waiting.append(member)
            while self._holder is not None or self._waiting[0] is not member:
                self._condition.wait()
            self._waiting.popleft()
            self._holder, self._since = member, time.perf_counter()
            self._freeze(*(other for other in self._members if other is not member))

    def leave(self, member: Member) -> None:
        """Give the device back, if the member has it."""
        with self._condition:
            self._release(member)

    def _freeze(self, *members: Member) -> None:
        if self._hurried:
            frozen = tree.freeze_all([member.pid for member in members])
            self._frozen |= {id(member): frozen[member.pid] for member in members}
        else:
            self._frozen |= {id(member): tree.freeze(member.pid) for member in members}

    def _release(self, member: Member) -> None:
        if self._holder is not member:
            return
        spent = time.perf_counter() - self._since
        self.seconds += spent
        for other in self._members:
            processes = self._frozen.pop(id(other), None)
            if processes is not None:
                with contextlib.suppress(ValueError):  # its page is closed: it is being ended
                    other.stops.add(spent)
                tree.resume(processes, other.pid)
        self._holder = None
        self._condition.notify_all()
