"""A worker for the next submission, made while this one is in its compile stack: contexts are dear, and the judge waits for one otherwise.

It is confined as any other and has loaded nothing, so that it may serve any task of one rank. While something is timed it is stopped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from .errors import JudgeFault, StepFailed

if TYPE_CHECKING:
    from ..task import Task
    from .host import WorkerHost
    from .session import WorkerSession

_STACK_SECONDS = 60.0


def start_ready(host: WorkerHost, task: Task | None = None, *, stack: bool = True, noted: bool = True) -> WorkerSession:
    """A worker with its compile stack ready and its global state noted; nothing is loaded yet.

    Args:
        host: Forks it.
        task: As for `WorkerHost.spawn`.
        stack: Whether it has a compile stack.
        noted: As for `WorkerHost.spawn`.

    Raises:
        JudgeFault: It cannot be started, or the compile stack of this host cannot be used.
    """
    session = host.spawn(task, stack=stack, noted=noted)
    with contextlib.ExitStack() as undo:
        undo.callback(session.close)
        try:
            session.watch(stack, _STACK_SECONDS)
        except StepFailed as error:
            raise JudgeFault(f"the compile stack of this host cannot be used: {error.summary}") from None
        undo.pop_all()
    return session


class Spare:
    """One worker in advance. Not thread-safe.

    Args:
        make: Starts a worker; called in a thread of its own.
    """

    def __init__(self, make: Callable[[], WorkerSession]) -> None:
        self._make = make
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spare")
        self._next: Future[WorkerSession] | None = None

    def prepare(self) -> None:
        """Start one in the background, unless there is one."""
        if self._next is None:
            self._next = self._thread.submit(self._make)

    def settle(self) -> None:
        """Wait until it stands still."""
        if self._next is not None:
            with contextlib.suppress(Exception):  # whoever wants to have it starts another, and meets that again
                self._next.result().rest()

    def take(self) -> WorkerSession | None:
        """The worker, if there is one and it lives."""
        future, self._next = self._next, None
        if future is None:
            return None
        try:
            session = future.result()
        except Exception:
            return None
        if session.living:
            return session
        session.close()
        return None

    def close(self) -> None:
        """End the worker."""
        if (session := self.take()) is not None:
            session.close()
        self._thread.shutdown()
