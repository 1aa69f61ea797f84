"""Whether others use the processors on which a clock runs: a call that had to wait for a core proves nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Set
from pathlib import Path

from ..sandbox.tree import descendants
from .quiet import used_seconds

CROWDED = 0.05
"""Share of the time of all cores that others may use: system services take 0.01 of two."""
_TICK = 1 / os.sysconf("SC_CLK_TCK")
_STAT = Path("/proc/stat")


class Crowd:
    """Processor time that is neither this process's nor its descendants', from now on.

    Args:
        processors: Cores that count; where there are none nobody is in the way.
    """

    def __init__(self, processors: Set[int]) -> None:
        self._processors = processors
        self._start, self._others = time.monotonic(), self._seconds()

    @property
    def dense(self) -> bool:
        """Whether others have used more than their share."""
        allowed = CROWDED * (time.monotonic() - self._start) * len(self._processors) + 2 * _TICK
        return bool(self._processors) and self._seconds() - self._others > allowed

    def _seconds(self) -> float:
        if not self._processors:
            return 0.0
        own = sum(map(used_seconds, (os.getpid(), *descendants(os.getpid()))))
        return _busy_seconds(self._processors) - own


def _busy_seconds(processors: Set[int]) -> float:
    """Time that these cores have worked since the host started, what a hypervisor took included."""
    seconds = 0.0
    for line in _STAT.read_text().splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in processors:
            user, nice, system, _idle, _waiting, irq, soft, stolen = map(int, fields[:8])
            seconds += (user + nice + system + irq + soft + stolen) * _TICK
    return seconds
