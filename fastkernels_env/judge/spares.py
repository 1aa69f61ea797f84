"""Workers of submissions that are started before there is a submission: forked, confined, and as far as they get without one.

A worker is used once, by one submission. What is started ahead here has run nothing but this library's code; it waits, and while something
is timed it is stopped like every other worker.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event

from ..task import Task
from .errors import JudgeFault, StepFailed
from .host import WorkerHost
from .session import WorkerSession

_READY_SECONDS = 60.0
_BORN_SECONDS = 60.0


class Spares:
    """At most one spare worker of each sort: one that will be called, and one with its compile stack ready, for the gate.

    Args:
        host: Starts workers.
        ahead: Whether workers are started ahead at all.
    """

    def __init__(self, host: WorkerHost, ahead: bool = True) -> None:
        self._host, self._ahead = host, ahead
        self._spares: dict[bool, _Spare] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spares")

    def take(self, task: Task, stack: bool = False, born: Callable[[WorkerSession], None] = lambda session: None) -> WorkerSession:
        """A worker in which nothing is loaded yet, a spare one if there is one that lives. The next one is started.

        Args:
            task: What it will run. A worker of several ranks is started when it is asked for.
            stack: For the gate: its compile stack is ready, and its global state noted.
            born: Called with it before it is ready, so that it can be ended by another thread.

        Raises:
            JudgeFault: No worker could be started, or the compile stack of this host cannot be used.
            WorkerError: It was ended while it was waited for.
        """
        spare = self._spares.pop(stack, None) if task.ranks == 1 else None
        session = spare.take(born) if spare is not None else None
        if session is None:
            session = self._host.spawn(task, stack=stack)
            born(session)
            if stack:
                watch(session, stack)
        else:
            self._host.reports.append(session.report)
        if self._ahead and task.ranks == 1:
            self._spares[stack] = _Spare(self._host, stack, self._thread)
        return session

    def sessions(self) -> list[WorkerSession]:
        """Those that are there, ready or not; waits for one that is being forked."""
        return [spare.session for spare in self._spares.values() if spare.born.wait(_BORN_SECONDS) and spare.session is not None]

    def close(self) -> None:
        """End all of them. Call after the host was closed: nothing is waited for then."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        for spare in self._spares.values():
            if spare.session is not None:
                spare.session.close()
        self._spares.clear()


class _Spare:
    """A worker that is being started by another thread."""

    def __init__(self, host: WorkerHost, stack: bool, thread: ThreadPoolExecutor) -> None:
        self.session: WorkerSession | None = None
        self.born = Event()
        self._started: Future[None] = thread.submit(self._start, host, stack)

    def _start(self, host: WorkerHost, stack: bool) -> None:
        try:
            self.session = host.spawn(stack=stack, ahead=True)
        finally:
            self.born.set()
        if stack:
            watch(self.session, stack)

    def take(self, born: Callable[[WorkerSession], None]) -> WorkerSession | None:
        """The worker, once it is ready; None if it could not be started, or has ended since.

        Raises:
            WorkerError, JudgeFault: It ended while it was waited for.
        """
        self.born.wait(_BORN_SECONDS)
        if self.session is None:
            return None
        if self._started.done() and (self._started.exception() is not None or not self.session.living):
            self.session.close()
            return None
        born(self.session)
        self._started.result()
        return self.session


def watch(session: WorkerSession, stack: bool) -> None:
    """Note a worker's global state, once its compile stack is imported if `stack`; a worker for which that fails is ended.

    Raises:
        JudgeFault: The compile stack of this host cannot be used.
    """
    with contextlib.ExitStack() as undo:
        undo.callback(session.close)
        try:
            session.watch(stack, _READY_SECONDS)
        except StepFailed as error:
            raise JudgeFault(f"the compile stack of this host cannot be used: {error.summary}") from None
        undo.pop_all()
