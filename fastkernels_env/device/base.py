"""What the judge needs from a device: memory that a worker can map, a clock that the worker cannot reach, and facts."""

from __future__ import annotations

import abc
import contextlib
import fcntl
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from ..types import DeviceInfo, Peaks

if TYPE_CHECKING:
    import torch


class DeviceError(Exception):
    """The device cannot be used; a fault of the host, never of a submission."""


class MissingTool(DeviceError):
    """This host lacks something that has to be installed."""


class ClockTimeout(Exception):
    """The worker did not answer before the deadline."""


class ClockLost(Exception):
    """The worker's channel closed while the clock ran."""


def fixed_file(name: str, nbytes: int) -> int:
    """A memory file whose size nobody can change: where a worker cuts it short, the judge's next access would end the judge (SIGBUS)."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, nbytes)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return descriptor


class Arena(abc.ABC):
    """Dedicated memory that crosses to a worker as file descriptors, one for each rank of it.

    Attributes:
        size: Bytes of a rank's part.
        descriptors: To hand over.
        view: The judge's view: uint8 ``[size]`` on the device, or ``[ranks, size]`` if there are several.
    """

    size: int
    descriptors: tuple[int, ...]
    view: torch.Tensor

    @abc.abstractmethod
    def close(self) -> None:
        """Unmap; the memory is freed when every process has let go."""


class Clock(abc.ABC):
    """The judge's go/done clock for one worker, which may consist of several ranks: it is done when the slowest is.

    Attributes:
        ends: Descriptors on which the ranks are woken, if they are by that.
        page: Descriptor of the page on which they are told, if they are by that.
    """

    ends: tuple[int, ...]
    page: int

    @abc.abstractmethod
    def start(self, seconds: float, alive: Callable[[], bool]) -> None:
        """Wait until the worker obeys the clock; `run` may follow any number of times, then `stop`.

        Raises:
            ClockTimeout, ClockLost: As `run`.
        """

    @abc.abstractmethod
    def run(
        self, sequence: int, seconds: float, alive: Callable[[], bool], gather: Callable[[], torch.Tensor],
        release: Callable[[], None] | None = None,
    ) -> tuple[float, torch.Tensor]:
        """Start an armed sequence and time it from outside.

        Args:
            sequence: Index of the armed sequence.
            seconds: Deadline.
            alive: Asked now and then while waiting; False ends the wait.
            gather: Reads the secret words of every timed output. The clock stops after it.
            release: Lets a stopped worker go on, called after "go": it has no moment in which it runs and does not know.

        Returns:
            Seconds from "go" to the last gathered word, and the words.

        Raises:
            ClockTimeout: No answer within `seconds`.
            ClockLost: The worker is gone.
        """

    @abc.abstractmethod
    def stop(self) -> None:
        """Let the worker leave its clock loop."""

    @abc.abstractmethod
    def close(self) -> None:
        """Close the descriptors."""


class Device(abc.ABC):
    """A device that this process judges on."""

    kind: str
    """``cpu`` or ``cuda``."""
    torch_device: str
    cache_bytes: int
    """Last-level cache (L2 on a GPU)."""
    ring_limit: int
    """Most bytes that a ring of 2K entries may take."""
    graph: bool
    """Whether timed sequences are captured into CUDA graphs."""
    tears: bool
    """Whether torn blocks are made: where calls are captured, nothing on the host sees which of them follow each other."""
    seals_runs: bool
    """Whether a call that is made alone is hidden by its round trip, so that sealed calls are made in runs."""
    dear_alone: bool = False
    """Whether it takes long to have the device alone, so that what is measured in a row is measured in one go."""
    dear_workers: bool = False
    """Whether it takes long to start a worker, so that one process of a submission goes through all stages."""
    processors: frozenset[int] = frozenset()
    """Cores whose other users disturb the clock."""
    target_seconds: float
    """How long K calls should take, so that the clock's noise is small against them."""

    @abc.abstractmethod
    def allocate(self, nbytes: int, ranks: int = 1) -> Arena:
        """Dedicated memory of at least `nbytes` for each rank, on the device of each."""

    @abc.abstractmethod
    def new_clock(self, ranks: int = 1) -> Clock:
        """A clock for one worker of that many ranks."""

    @abc.abstractmethod
    def most_ranks(self) -> int:
        """How many ranks find a device of their own, or a core, here."""

    @abc.abstractmethod
    def info(self, ranks: int = 1) -> DeviceInfo:
        """Name, id, sizes and current clocks; the ids of the devices that further ranks have."""

    @abc.abstractmethod
    def published_peaks(self) -> Peaks | None:
        """The vendor's published rates, or None where this library does not know them."""

    @abc.abstractmethod
    def measure_peaks(self) -> Peaks:
        """Copy bandwidth and matrix-product rates of this host, measured now."""

    @abc.abstractmethod
    def synchronize(self) -> None:
        """Wait for the judge's own work."""

    @abc.abstractmethod
    def settle(self) -> None:
        """Called right before a timed block: let the judge's own work end, and nothing stay in the cache that a worker pinned there."""

    @abc.abstractmethod
    def flush(self) -> None:
        """Replace what the last-level cache holds."""

    def clocks(self) -> dict[str, float]:
        """Clocks and throttle reasons now; empty where the device does not tell."""
        return {}

    def steady(self, before: dict[str, float], after: dict[str, float]) -> bool:
        """Whether two readings of `clocks` around a measurement say that it was taken under one regime."""
        return True

    def canary(self) -> float:
        """Wall seconds of a fixed piece of the judge's own work on the device while no worker runs; 0.0 where time would say nothing."""
        return 0.0

    def share(self) -> None:  # noqa: B027 -- only devices with a memory of their own need do something
        """Other judges use the device too: take less of its memory, and keep none."""

    def trim(self) -> None:  # noqa: B027
        """Give back memory that is not in use, where others may want it."""

    def short(self) -> bool:
        """Whether a worker may have been out of the device's memory for want of what other judges hold."""
        return False

    def judging(self) -> AbstractContextManager[None]:
        """Held while an evaluation runs: what the judge must set in its own process, undone afterwards."""
        return contextlib.nullcontext()
