"""Whose turn it is on the device: while one worker is timed, every other one is stopped, with all that it started."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .session import WorkerSession


class Turns:
    """The workers that take part in a measurement; at most one of them runs.

    Args:
        sessions: All of them.
    """

    def __init__(self, sessions: Sequence[WorkerSession]) -> None:
        self._sessions = list(sessions)

    def give(self, session: WorkerSession) -> None:
        """Stop all others. The worker itself goes on with the next request to it, or at once if it was not stopped."""
        for other in self._sessions:
            if other is not session:
                other.pause()

    def stop_all(self) -> None:
        """Stop every worker."""
        for session in self._sessions:
            session.pause()

    def end(self) -> None:
        """Let every worker go on."""
        for session in self._sessions:
            session.resume()


@contextlib.contextmanager
def taking_turns(sessions: Sequence[WorkerSession]) -> Iterator[Turns]:
    """Turns that end however the measurement ends."""
    turns = Turns(sessions)
    try:
        yield turns
    finally:
        turns.end()
