"""Look at a tree from outside and say when it has taken too much.

What the kernel cannot limit by itself is read here now and then: memory of all processes together, which RLIMIT_AS cannot bound without
breaking CUDA; memory that is left on the host; the scratch folder where it is no file system of its own; memory of a GPU.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping

from .cgroup import MemoryGroup
from .limits import Limits, gigabytes
from .tree import descendants

PERIOD = 0.05
"""Seconds between two looks: what a process can take in between is about half a gigabyte."""
_PAGE = os.sysconf("SC_PAGE_SIZE")
_SLOW = 10
"""What takes longer is looked at in every so many looks."""
_MOST_FILES = 100_000


class Watch:
    """Watches one tree.

    Args:
        pid: Its first process.
        limits: What it may take.
        group: Its control group, where there is one.
        scratch: Its scratch folder, if that is not limited by itself; else empty.
        device_memory: Bytes of GPU memory by process, and what one tree may take; None where there is no GPU.
    """

    def __init__(
        self, pid: int, limits: Limits, group: MemoryGroup | None = None, scratch: str = "",
        device_memory: Callable[[], tuple[Mapping[int, int], int]] | None = None,
    ) -> None:
        self._pid, self._limits, self._group, self._scratch, self._device_memory = pid, limits, group, scratch, device_memory
        self._looks = 0

    def look(self) -> str:
        """What the tree took too much of, as the end of a sentence; empty if nothing."""
        processes = [self._pid, *descendants(self._pid)]
        self._looks += 1
        return self._memory(processes) or self._count(processes) or self._folder() or self._device(processes)

    def verdict(self) -> str:
        """What the kernel ended one of its processes for; empty if it did not."""
        if self._group is not None and self._group.was_exceeded():
            return f"took more than {gigabytes(self._limits.memory)} of memory"
        return ""

    def _memory(self, processes: list[int]) -> str:
        if exceeded := self.verdict():
            return exceeded
        used = sum(map(resident, processes))
        if used > self._limits.memory and (used := sum(map(proportional, processes))) > self._limits.memory:
            return f"took more than {gigabytes(self._limits.memory)} of memory"
        if available_memory() < self._limits.host and self._held(used) > self._limits.host:
            return f"took {gigabytes(self._held(used))} of memory, and the host has less than {gigabytes(self._limits.host)} left"
        return ""

    def _held(self, used: int) -> int:
        with contextlib.suppress(OSError):
            return max(used, self._group.used()) if self._group is not None else used
        return used

    def _count(self, processes: list[int]) -> str:
        most = self._limits.processes
        return f"started more than {most} processes" if len(processes) > most else ""

    def _folder(self) -> str:
        if self._scratch and self._looks % _SLOW == 0 and size_on_disk(self._scratch) > self._limits.scratch:
            return f"wrote more than {gigabytes(self._limits.scratch)} into its scratch folder"
        return ""

    def _device(self, processes: list[int]) -> str:
        if self._device_memory is None:
            return ""
        held, limit = self._device_memory()
        if sum(held.get(process, 0) for process in processes) > limit:
            return f"took more than {gigabytes(limit)} of the device's memory"
        return ""


def resident(pid: int) -> int:
    """Bytes of a process in memory, without pages of files; shared memory counts for each process that maps it."""
    try:
        with open(f"/proc/{pid}/status", "rb", buffering=0) as file:
            fields = dict(line.partition(b":")[::2] for line in file.read().splitlines())
        return sum(int(fields[name].split()[0]) << 10 for name in (b"RssAnon", b"RssShmem") if name in fields)
    except OSError:
        return 0


def proportional(pid: int) -> int:
    """Like `resident`, but what several processes share (all that a fork has not written to) is divided among them. Dearer to read."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb", buffering=0) as file:
            fields = dict(line.partition(b":")[::2] for line in file.read().splitlines()[1:])
        return sum(int(fields[name].split()[0]) << 10 for name in (b"Pss_Anon", b"Pss_Shmem"))
    except (OSError, KeyError):  # gone, or a kernel that does not say: the larger figure then counts
        return resident(pid)


def available_memory() -> int:
    """Bytes that the host can still give."""
    with open("/proc/meminfo", "rb", buffering=0) as file:
        for line in file.read().splitlines():
            if line.startswith(b"MemAvailable:"):
                return int(line.split()[1]) << 10
    return 1 << 62


def size_on_disk(folder: str) -> int:
    """Bytes of the files below a folder, as far as they can be counted."""
    total = seen = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_blocks * 512
            seen += 1
            if seen > _MOST_FILES:
                return 1 << 62
    return total
