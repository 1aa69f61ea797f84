"""What every pool of judges is, and how judging may break off."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Protocol

from ..journal import Entry
from ..types import Evaluation


class JudgeLost(Exception):
    """A judge's process ended while it judged; whose fault that was is not known."""


class HostLost(Exception):
    """Judging broke off, or did not begin, for want of a host: one was lost, or cannot start a judge. No reply does that."""


class JudgeBroken(Exception):
    """A judge cannot judge on its host; the message says why."""


class PoolClosed(Exception):
    """The pool was closed before an order was judged."""


class Pool(Protocol):
    """Judges somewhere: on this host, or on others."""

    device: str
    """Device kind."""
    local: bool
    """Whether they run on this host."""

    @property
    def judges(self) -> int:
        """How many replies are judged at a time."""

    @property
    def alone_seconds(self) -> float:
        """For how long some judge had its device to itself so far."""

    def submit(self, entry: Entry, alone: bool = False) -> Future[Evaluation]:
        """See `JudgePool.submit`; `HostLost` is another way in which it may end."""

    def take_back(self, future: Future[Evaluation]) -> None:
        """Forget an order."""

    def close(self) -> None:
        """End all judging."""
