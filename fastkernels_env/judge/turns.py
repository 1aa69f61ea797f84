"""Whose turn it is on the device: while one worker is timed, every other one is stopped, with all that it started."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from .quiet import IDLE_SECONDS, Canary, NotQuiet, Strays
from .turnstile import Turnstile

if TYPE_CHECKING:
    from .session import WorkerSession


class Turns:
    """The workers that take part in a measurement; at most one of them runs.

    Args:
        judged: The submission's worker.
        trusted: Workers of baselines, also of those that take no part.
        canary: Says whether the device is quiet.
        turnstile: Keeps other evaluations off the device.
    """

    def __init__(self, judged: WorkerSession, trusted: Sequence[WorkerSession], canary: Canary, turnstile: Turnstile) -> None:
        self._judged, self._trusted, self._canary, self._turnstile = judged, list(trusted), canary, turnstile
        self._strays = Strays(judged.pid)
        self._since: float | None = None
        self._idle_seconds = 0.0

    def alone(self) -> AbstractContextManager[bool]:
        """Have the device without other evaluations; whatever is timed is timed so."""
        return self._turnstile.alone()

    def give(self, session: WorkerSession) -> None:
        """Stop all others. The worker itself goes on with the next request to it, or at once if it was not stopped."""
        if session is self._judged:
            self._account()
        for other in (self._judged, *self._trusted):
            if other is not session:
                other.pause()
        if session is not self._judged and self._since is None:
            self._since = self._used()

    @contextlib.contextmanager
    def round(self, whole: bool) -> Iterator[None]:
        """Begin a round: stop every worker and see whether the device is quiet.

        Args:
            whole: Whether to have the device without other evaluations to the round's end.

        Raises:
            NotQuiet: It is not.
        """
        for session in (self._judged, *self._trusted):
            session.pause()
        with contextlib.ExitStack() as held:
            seen = held.enter_context(self.alone())
            if not seen:
                self._canary.check()
            if not whole:
                held.close()
            yield

    def settle(self) -> None:
        """The measurement is over.

        Raises:
            NotQuiet: Processes of the submission ran while it was another's turn.
        """
        self._account()
        if self._idle_seconds > IDLE_SECONDS:
            raise NotQuiet(f"processes of the submission used {self._idle_seconds:.2g} s of processor time while they were to be stopped")

    def end(self) -> None:
        """Let every worker go on."""
        for session in (self._judged, *self._trusted):
            session.resume()

    def _account(self) -> None:
        if self._since is not None:
            self._idle_seconds += max(self._used() - self._since, 0.0)
            self._since = None

    def _used(self) -> float:
        return self._strays.seconds([*(session.pid for session in self._trusted), *self._judged.helpers])


@contextlib.contextmanager
def taking_turns(
    judged: WorkerSession, trusted: Sequence[WorkerSession], canary: Canary, turnstile: Turnstile | None = None
) -> Iterator[Turns]:
    """Turns that end however the measurement ends."""
    turns = Turns(judged, trusted, canary, turnstile or Turnstile())
    try:
        yield turns
    finally:
        turns.end()
