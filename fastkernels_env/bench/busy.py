"""Who keeps a host busy while a batch is judged: core seconds by kind of process, cores and GPU in use."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from ..device import nvml
from ..sandbox.tree import descendants
from .processes import is_confined, is_judge, name_of

_PERIOD = 0.2
_TICKS = os.sysconf("SC_CLK_TCK")
_COMPILERS = frozenset({
    "as", "c++", "cc1", "cc1plus", "cicc", "collect2", "cudafe++", "fatbinary", "g++", "gcc", "ld", "ninja", "nvcc", "nvlink", "ptxas",
})
_IDLE = (3, 4)
"""Fields of the first line of /proc/stat in which nothing was done: idle, and idle while waiting for a disk."""


class Shares(msgspec.Struct, frozen=True, kw_only=True):
    """What was busy, in the mean over the time in which somebody looked.

    Attributes:
        cores: Cores of the host that did something, whoever's it was.
        gpu: Share of the time in which the GPU ran a kernel, as NVML tells it; None where there is none.
        core_seconds: Of the processes below this one: ``judges`` (this process among them), ``compilers`` (by their names),
            ``submissions`` (what else is confined), and ``others``, which are fork servers and baselines. What a process used after it was
            last looked at is missing.
    """

    cores: float
    gpu: float | None
    core_seconds: dict[str, float]


class Busy(threading.Thread):
    """Looks five times a second while its block runs.

    Args:
        uuid: Of the GPU; empty if there is none.
    """

    def __init__(self, uuid: str = "") -> None:
        super().__init__(name="busy", daemon=True)
        self._uuid, self._over = uuid, threading.Event()
        self._earlier: dict[tuple[int, str], float] = {}
        self._used: dict[tuple[int, str], tuple[str, float]] = {}
        self._gpu: list[float] = []

    def __enter__(self) -> Busy:
        self._began, self._before = time.perf_counter(), _worked()
        self._earlier = {(process.pid, process.started): process.seconds for process in _processes()}
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()
        self._look()
        self._seconds, self._after = time.perf_counter() - self._began, _worked()

    @property
    def shares(self) -> Shares:
        """What was busy; ask once the block has ended."""
        spent: dict[str, float] = {}
        for role, seconds in self._used.values():
            spent[role] = spent.get(role, 0.0) + seconds
        gpu = sum(self._gpu) / len(self._gpu) if self._gpu else None
        return Shares(cores=(self._after - self._before) / self._seconds, gpu=gpu, core_seconds=dict(sorted(spent.items())))

    def run(self) -> None:
        """Look until the block ends."""
        while not self._over.wait(_PERIOD):
            self._look()

    def _look(self) -> None:
        for process in _processes():
            key = process.pid, process.started
            self._used[key] = process.role, process.seconds - self._earlier.get(key, 0.0)
        if (busy := nvml.busy(self._uuid) if self._uuid else None) is not None:
            self._gpu.append(busy)


class _Process(NamedTuple):
    pid: int
    started: str
    role: str
    seconds: float


def _processes() -> Iterator[_Process]:
    """This process and those below it, without the time of children."""
    own = os.getpid()
    for pid in (own, *descendants(own)):
        role = "judges" if pid == own or is_judge(pid) else _role(pid)
        with contextlib.suppress(OSError):  # it has ended
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            yield _Process(pid, fields[19], role, (int(fields[11]) + int(fields[12])) / _TICKS)


def _role(pid: int) -> str:
    if name_of(pid) in _COMPILERS:
        return "compilers"
    return "submissions" if is_confined(pid) else "others"


def _worked() -> float:
    """Core seconds that this host has worked since it was started."""
    fields = list(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]))
    return sum(field for place, field in enumerate(fields) if place not in _IDLE) / _TICKS
