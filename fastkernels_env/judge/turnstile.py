"""Having the device alone: what is timed must not share cores, caches or a GPU with other evaluations on the same device."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

_TRIES = 20
_PATIENCE = 2.0
"""Seconds for which others are kept waiting, and then let go on, while the device is not quiet."""


class Turnstile:
    """The device's turnstile for a judge that nobody shares the device with; others override what happens at the gate.

    Attributes:
        seconds: For how long this judge has had the device alone.
        waited: For how long it has waited for that.
        quiet: Whether nothing runs on the device that others have left there; set where they can leave something.
    """

    shared = False
    """Whether there may be others."""

    def __init__(self) -> None:
        self.seconds = self.waited = 0.0
        self.quiet: Callable[[], bool] | None = None
        self._depth = 0

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        """Have the device alone. May be nested; whoever is inside goes on being alone until the outermost one ends.

        Yields:
            Whether the device was seen to be quiet right now.
        """
        if self._depth:
            yield False
            return
        start = time.perf_counter()
        seen = self._enter()
        self.waited += (entered := time.perf_counter()) - start
        self._depth = 1
        try:
            yield seen
        finally:
            self._depth = 0
            self.leave()
            self.seconds += time.perf_counter() - entered

    def _enter(self) -> bool:
        """Enter, and wait for what those who are stopped have left on the device; whether it was seen to be quiet.

        What does not end by itself is ended by its own judge, which must not be stopped for that. If nothing helps it may be a work of the
        submission that is about to be timed: that is for the canary to say.
        """
        self.enter()
        try:
            for _ in range(_TRIES):
                deadline = time.perf_counter() + _PATIENCE
                while time.perf_counter() < deadline:
                    if self.quiet is None:
                        return False
                    if self.quiet():
                        return True
                self.leave()
                time.sleep(_PATIENCE)
                self.enter()
        except BaseException:  # an interrupt, or a device that is lost: the others go on
            self.leave()
            raise
        return False

    @contextlib.contextmanager
    def seat(self) -> Iterator[None]:
        """Have memory for what is timed."""
        start = time.perf_counter()
        self.sit()
        self.waited += time.perf_counter() - start
        try:
            yield
        finally:
            self.rise()

    def sit(self) -> None:
        """Wait until there is memory."""

    def rise(self) -> None:
        """It is free again."""

    def enter(self) -> None:
        """Wait until every other judge of the device is stopped."""

    def leave(self) -> None:
        """Let them go on."""
