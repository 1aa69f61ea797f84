"""Whether the device is quiet while a trusted side is timed: what a submission does outside of its own calls would slow its opponent.

Two signals, neither of which a busy neighbour on a shared host can set off alone. Processor time that processes of submissions use while
they are stopped: there should be none, whatever else the host does. And on a GPU, where a kernel that was left behind runs on while its
process is stopped, a canary: a fixed piece of the judge's own work that takes longer than it does on a quiet device.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

from ..device import Device
from ..sandbox.tree import descendants

IDLE_SECONDS = 0.05
"""Processor time that stopped processes may use: the ticks in which they were stopped."""
SLOW = 1.5
"""A canary this many times slower than on a quiet device says that it is not."""
_TRIES = 6
_WAIT = 0.02
_TICKS = os.sysconf("SC_CLK_TCK")


class NotQuiet(Exception):
    """Something keeps the device busy while it is another's turn."""


class Strays:
    """Processes below the fork server that belong to no trusted worker: the submission's, wherever they hide.

    Args:
        root: Process id of the fork server, or of any worker below it.
    """

    def __init__(self, root: int) -> None:
        self._root = _child_of(os.getpid(), root)

    def seconds(self, trusted: Iterable[int]) -> float:
        """Processor time that they have used so far.

        Args:
            trusted: Process ids to leave out, with all below them.
        """
        own: set[int] = set()
        for pid in trusted:
            own |= {pid, *descendants(pid)}
        return sum(map(used_seconds, set(descendants(self._root)) - own))


class Canary:
    """The judge's own work as a measure of a quiet device.

    Args:
        device: The judge's device, on which nothing else runs yet.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._quiet = min(device.canary() for _ in range(_TRIES))
        """The quickest so far."""

    def quiet(self) -> bool:
        """Whether it takes no longer than on a quiet device now."""
        spent = self._device.canary()
        self._quiet = min(self._quiet, spent)
        return spent <= SLOW * self._quiet

    def check(self) -> None:
        """Call while every worker is stopped.

        Raises:
            NotQuiet: The device is busy, and stays so.
        """
        spent = self._device.canary()
        for _ in range(_TRIES):
            if spent <= SLOW * self._quiet:
                self._quiet = min(self._quiet, spent)
                return
            time.sleep(_WAIT)
            spent = min(spent, self._device.canary())
        raise NotQuiet(
            f"the judge's own work takes {spent * 1e3:.3g} ms instead of {self._quiet * 1e3:.3g} ms while all workers are stopped"
        )


def used_seconds(pid: int) -> float:
    """Processor seconds of a process and of the children that it has reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / _TICKS


def _child_of(ancestor: int, pid: int) -> int:
    """The process between `ancestor` and `pid` that is the former's child; `pid` itself if there is none."""
    below = pid
    while True:
        try:
            parent = int(Path(f"/proc/{below}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return pid
        if parent == ancestor:
            return below
        if parent <= 1:
            return pid
        below = parent
