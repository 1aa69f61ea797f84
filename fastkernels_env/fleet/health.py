"""Whether a host is in order: a reply whose verdict is known is judged there now and then, and after every fault."""

from __future__ import annotations

import os
import threading
import time

from ..evaluator import Evaluator, canary_source
from ..pool.base import HostLost
from ..registry import load_task
from ..types import Outcome

TASK = "rms_norm"
_EVERY = 200
"""Replies between two checks."""
_FRESH_SECONDS = 30.0
_RIGHT = (Outcome.ACCEPTED, Outcome.UNMEASURED)


class Health:
    """The health of an actor's host. Thread-safe.

    Args:
        evaluator: The actor's.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self._lock = threading.Lock()
        self._replies, self._checked = 0, -_FRESH_SECONDS
        self._illness = ""

    def check_now_and_then(self) -> None:
        """Call before every reply; see `check`."""
        with self._lock:
            self._replies += 1
            due = self._replies % _EVERY == 0
        if due:
            self.check()

    def check(self) -> None:
        """Judge a plain baseline, unless that was done a moment ago.

        Raises:
            HostLost: It was not right, as it is where all is in order.
        """
        with self._lock:
            if time.monotonic() - self._checked > _FRESH_SECONDS:
                self._illness = self._examine()
                self._checked = time.monotonic()
            if self._illness:
                raise HostLost(f"the health check on {os.uname().nodename} failed: {self._illness}")

    def _examine(self) -> str:
        source = canary_source(load_task(TASK), self._evaluator.device)
        assert source is not None
        try:
            evaluation = self._evaluator.evaluate(TASK, source, effort="quick")
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return "" if evaluation.outcome in _RIGHT else f"{evaluation.outcome.value}: {evaluation.reason}"
