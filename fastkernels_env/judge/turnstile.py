"""Having the device alone: what is timed must not share cores, caches or a GPU with other evaluations on the same device."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class Turnstile:
    """The device's turnstile for a judge that nobody shares the device with; others override what happens at the gate.

    Attributes:
        seconds: For how long this judge has had the device alone.
        waited: For how long it has waited for that.
    """

    def __init__(self) -> None:
        self.seconds = self.waited = 0.0
        self._depth = 0

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Have the device alone. May be nested; whoever is inside goes on being alone until the outermost one ends."""
        if self._depth:
            yield
            return
        start = time.perf_counter()
        self.enter()
        self.waited += (entered := time.perf_counter()) - start
        self._depth = 1
        try:
            yield
        finally:
            self._depth = 0
            self.leave()
            self.seconds += time.perf_counter() - entered

    def enter(self) -> None:
        """Wait until every other judge of the device is stopped."""

    def leave(self) -> None:
        """Let them go on."""
