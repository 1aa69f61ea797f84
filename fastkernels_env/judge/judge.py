"""The judge of one device: owns the device, the fork server, the baselines, and what is known about the host."""

from __future__ import annotations

import contextlib

import msgspec

from ..cache import HostCache, HostRecord
from ..device import open_device
from ..forkserver import ForkServer
from ..task import Task
from ..types import BaselineReport, Peaks
from ..versions import versions
from .baselines import BaselinePool, Contestant
from .effort import kept_tasks
from .host import WorkerHost
from .quiet import Canary
from .spare import Spare, start_ready
from .turnstile import Turnstile


class Judge:
    """Everything that an evaluation needs and that outlives it. Not thread-safe: one evaluation at a time.

    Args:
        device: ``cpu`` or ``cuda``.
        server: A fork server that was started ahead; the judge ends it.
        turnstile: Lets this judge have the device alone; None where nobody shares it.

    Raises:
        DeviceError: The device cannot be opened.
    """

    def __init__(self, device: str, server: ForkServer | None = None, turnstile: Turnstile | None = None) -> None:
        self.turnstile = turnstile or Turnstile()
        self.device = open_device(device)
        self.cache = HostCache(self.device.info(), versions())
        self.host = WorkerHost(self.device, self.cache.folder, server)
        self.baselines = BaselinePool(self.host, self.device, kept_tasks(device, self.turnstile.shared))
        self.spare = Spare(lambda: start_ready(self.host, noted=False))
        with self.turnstile.alone():
            self.canary = Canary(self.device)
        if self.turnstile.shared:
            self.turnstile.quiet = self.canary.quiet
            self.device.share()
        self._record = self.cache.load()

    @property
    def peaks(self) -> Peaks:
        """Measured rates of this host; measured now if no `warm` has done so."""
        if self._record is None:
            with self.turnstile.alone():
                self._record = HostRecord(device=self.device.info().name, peaks=self.device.measure_peaks())
            self.cache.save(self._record)
        return self._record.peaks

    def note_warm(self, task: Task, reports: list[BaselineReport]) -> None:
        """Remember which baselines of a task were built and tried."""
        record = self.cache.load() or HostRecord(device=self.device.info().name, peaks=self.peaks)
        statuses = {report.name: report.status for report in reports}
        self._record = msgspec.structs.replace(record, warmed={**record.warmed, task.folder.name: statuses})
        self.cache.save(self._record)

    @property
    def warmed(self) -> dict[str, dict[str, str]]:
        """Status of every baseline by task, where `warm` has run."""
        return self._record.warmed if self._record else {}

    def contestants(self, task: Task, compiled: bool) -> dict[str, Contestant]:
        """The baselines to time against, by name.

        Args:
            task: The task.
            compiled: Whether those that go through torch.compile take part.
        """
        living = self.baselines.contestants(task, compiled)
        return {name: c for name, c in living.items() if compiled or not c.baseline.compile}

    def close(self) -> None:
        """End every worker and the fork server."""
        self.host.close()  # first: nothing then waits for a baseline that is still starting
        with contextlib.suppress(Exception):
            self.spare.close()
        with contextlib.suppress(Exception):
            self.baselines.close()
