"""A running confined tree, seen from the process that started it: how it is held, how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from . import layers, slots, tree
from .cgroup import MemoryGroup
from .layers import Report
from .limits import Limits
from .roots import Roots
from .watch import Watch


class Policy(NamedTuple):
    """How a tree is confined.

    Attributes:
        scratch: An existing empty folder; the only place where the tree may write.
        roots: What it may read.
        limits: What it may take.
        driver_socket: Whether a CUDA driver runs inside (see `seccomp.build_filter`).
        device_memory: See `watch.Watch`.
        loopback: Whether the tree's processes may connect to each other, over a network that has nothing else.
    """

    scratch: str
    roots: Roots
    limits: Limits
    driver_socket: bool = False
    device_memory: Callable[[], tuple[Mapping[int, int], int]] | None = None
    loopback: bool = False


class Ended(NamedTuple):
    """How the worker of a tree ended by itself."""

    code: int
    signal: int


class Tree:
    """A running confined tree.

    Attributes:
        top: Child of this process; everything is below it.
        worker: Process id of the worker; 0 if it has ended already.
        report: What holds it.
        reason: What it was ended for, if it took too much.
    """

    def __init__(self, top: int, status: int, policy: Policy, slot: slots.Slot | None, group: MemoryGroup | None) -> None:
        self.top, self._status, self._slot, self._group = top, status, slot, group
        self.report, self.worker, self.reason, self._line = Report((), {}), 0, "", b""
        self._policy = policy
        self._watch: Watch | None = None

    def begin(self) -> None:
        """Wait until it is confined.

        Raises:
            OSError: Its first process ended before that.
        """
        line = b""
        while not line.endswith(b"\n"):
            data = os.read(self._status, 1)
            if not data:
                raise OSError("a process ended while it was being confined")
            line += data
        self.report = Report.of_tree(json.loads(line))
        below = tree.descendants(self.top)
        self.worker = below[-1] if below else 0
        scratch = self._policy.scratch if layers.VIEW in self.report.missing else ""
        self._watch = Watch(self.top, self._policy.limits, self._group, scratch, self._policy.device_memory)

    def look(self) -> None:
        """End it if it has taken too much."""
        if not self.reason and self._watch is not None and (reason := self._watch.look()):
            self.reason = reason
            self._kill()

    def wait(self, seconds: float) -> Ended | None:
        """How the worker ended by itself, once it has; None if it has not within that time."""
        deadline = time.monotonic() + seconds
        while not self._line.endswith(b"\n"):
            if not select.select([self._status], [], [], max(deadline - time.monotonic(), 0.0))[0]:
                return None
            data = os.read(self._status, 512)
            if not data:
                return None
            self._line += data
        answer = json.loads(self._line)
        return Ended(answer["code"], answer["signal"])

    def end(self) -> None:
        """End everything below, and give back what it held. Call once."""
        self._kill()
        os.waitpid(self.top, 0)
        os.close(self._status)
        if self._watch is not None:
            self.reason = self.reason or self._watch.verdict()
        if self._group is not None:
            self._group.close()
        if self._slot is not None:
            self._slot.release()

    def _kill(self) -> None:
        if layers.PID in self.report.missing or not self.report.active:
            tree.kill(self.top)
        for pid in (*tree.descendants(self.top)[:1], self.top):  # below a launcher the init is the one that takes the others with it
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
