"""The judge's handle on the fork server: start it, ask it for workers, have them ended."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import socket
import threading
from pathlib import Path

from ..clock import now
from ..device import Device
from ..forkserver import ForkServer, worker_environment
from ..protocol import MAX_REPLY, Channel, Closed, Ended, Kill, Refused, ServerReply, Spawn, Spawned
from ..provisions import CACHES, new_folder
from ..sandbox.layers import Report, refusal
from ..task import Task
from .errors import JudgeFault, LastingFault, WorkerError
from .session import WorkerSession
from .store import Store

_START_SECONDS = 60.0
_LOG_TAIL = 8000
_UNITS = {"cpu": "cores", "cuda": "GPUs that reach each other"}


class WorkerHost:
    """One fork server and the workers it has forked. Thread-safe.

    Args:
        device: The device that workers serve.
        cache: Folder in which trusted workers (baselines) keep compiled code.
        server: A fork server that was started ahead.

    Attributes:
        strict: Whether workers of submissions are refused that lack a layer of containment.
        reports: What held the workers of submissions, one per worker since the list was last emptied.
        provisions: What the compile caches of such workers hold at first.
    """

    def __init__(self, device: Device, cache: Path, server: ForkServer | None = None) -> None:
        self.device, self.cache, self.strict = device, cache, False
        self.reports: list[Report] = []
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._server = server or ForkServer(device.kind)
        self._closed = False
        self.provisions = Store(cache)

    def spawn(
        self, task: Task | None = None, *, trusted: bool = False, stack: bool = False, own_caches: bool = False, noted: bool = True
    ) -> WorkerSession:
        """Fork a worker.

        Args:
            task: What it will run: says of how many ranks it consists. None: of one.
            trusted: A baseline: keeps its compile caches between evaluations, and is not confined.
            stack: It will use the compile stack; the first such worker waits until the fork server has imported that.
            noted: Whether what holds it goes into `reports` now, or when it is given to `note`.
            own_caches: Its compile caches are in its scratch folder, as those of submissions are, although it is trusted.

        Raises:
            JudgeFault: The host is closed, the fork server is gone and could not be started again, no worker could be started, or it
                lacks a layer of containment and `strict` is set.
        """
        if task is not None:
            self.check_room(task)
        scratch = new_folder()
        try:
            session = self._spawn(scratch, task, trusted, stack, own_caches or not trusted)
        except BaseException:  # an interrupt too: nobody else knows of the folder yet
            remove_scratch(scratch)
            raise
        if noted:
            self.note(session)
        if task is not None and task.ranks > 1:
            self._join(session, task)
        return session

    def note(self, session: WorkerSession) -> None:
        """A worker serves a submission from now on, if it is no baseline's."""
        if session.report is not None:
            self.reports.append(session.report)

    def check_room(self, task: Task) -> None:
        """Whether every rank of a task finds a device here.

        Raises:
            LastingFault: There are too few.
        """
        most = self.device.most_ranks()
        if task.ranks > most:
            raise LastingFault(f"this task takes {task.ranks} {_UNITS[self.device.kind]}, this host has {most}; judge it on a larger host")

    def _join(self, session: WorkerSession, task: Task) -> None:
        """Let the ranks of a worker form a group.

        Raises:
            JudgeFault: They cannot. Nothing of a submission has run yet.
        """
        try:
            session.join(self.device.allocate(task.workspace[self.device.kind], task.ranks))
        except WorkerError as error:
            raise JudgeFault(f"the {task.ranks} ranks of a worker could not form a group: {error.summary}") from None
        except BaseException:
            session.close()
            raise

    def _spawn(self, scratch: Path, task: Task | None, trusted: bool, stack: bool, own_caches: bool) -> WorkerSession:
        worker, ranks = next(self._ids), task.ranks if task else 1
        with contextlib.ExitStack() as undo:
            clock = self.device.new_clock(ranks)
            undo.callback(clock.close)
            judge_end, worker_end = socket.socketpair()
            undo.callback(judge_end.close)
            log = os.memfd_create("log", os.MFD_CLOEXEC)
            undo.callback(os.close, log)
            environment = self._environment(scratch, scratch if own_caches else self.cache, self.cache if trusted else scratch)
            proved = self.provisions.present  # it took a worker that compiled for the device
            with worker_end, self.provisions.lent() if own_caches else contextlib.nullcontext(()) as provisions:
                fds = (worker_end.fileno(), *clock.ends, clock.page, *provisions, log)
                request = Spawn(worker, self.device.kind, str(scratch), environment, trusted, stack, ranks, bool(provisions), proved)
                reply = self._ask(request, fds)
            if isinstance(reply, Refused):
                raise JudgeFault(f"no worker could be started: {reply.why}")
            assert isinstance(reply, Spawned)
            undo.pop_all()
        session = WorkerSession(self, worker, reply, Channel(judge_end, limit=MAX_REPLY), clock, log, scratch, trusted)
        if self.strict and not trusted and reply.missing:
            session.close()
            raise JudgeFault(refusal(reply.missing))
        return session

    def end(self, worker: int) -> Ended:
        """End a worker and every descendant of it; says how it ended."""
        reply = self._ask(Kill(worker))
        assert isinstance(reply, Ended)
        return reply

    def _ask(self, request: Spawn | Kill, fds: tuple[int, ...] = ()) -> Spawned | Refused | Ended:
        with self._lock:
            if self._closed:
                if isinstance(request, Kill):
                    return Ended(killed=True, code=0, signal=9)
                raise JudgeFault("a worker was asked for after the judge was closed")
            try:
                return self._exchange(request, fds)
            except (Closed, TimeoutError):
                self._server.close()
                self._server = ForkServer(self.device.kind)
                if isinstance(request, Kill):
                    return Ended(killed=True, code=0, signal=9)
            try:
                return self._exchange(request, fds)
            except (Closed, TimeoutError) as error:
                raise JudgeFault("the fork server ended twice while a worker was asked for") from error

    def _exchange(self, request: Spawn | Kill, fds: tuple[int, ...]) -> Spawned | Refused | Ended:
        deadline = now() + _START_SECONDS
        self._server.control.send(request, fds, deadline)
        reply, _ = self._server.control.receive(ServerReply, deadline)
        assert isinstance(reply, Spawned | Refused | Ended)
        return reply

    def _environment(self, scratch: Path, caches: Path, libraries: Path) -> dict[str, str]:
        return {
            **worker_environment(self.device.kind),
            "HOME": str(scratch), "TMPDIR": str(scratch),
            **{variable: str(caches / name) for variable, name in CACHES.items()},
            "FLASHINFER_WORKSPACE_BASE": str(libraries), "TORCH_LOGS": "",
            "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",  # it would put them into the scratch folder: eight seconds, each time
        }

    def close(self) -> None:
        """End the fork server and with it every worker. Idempotent."""
        with self._lock:
            self._closed = True
            self._server.close()
            self.provisions.close()


def remove_scratch(scratch: Path) -> None:
    """Remove a worker's scratch folder."""
    shutil.rmtree(scratch, ignore_errors=True)


def read_log(descriptor: int) -> str:
    """The end of what a worker printed."""
    with contextlib.suppress(OSError):
        size = os.fstat(descriptor).st_size
        return os.pread(descriptor, _LOG_TAIL, max(0, size - _LOG_TAIL)).decode(errors="replace")
    return ""
