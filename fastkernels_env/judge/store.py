"""Provisions that a host keeps (see `provisions`), ready to be handed to workers."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

from ..cache import write_atomically
from ..provisions import sealed


class Store:
    """Provisions in a host's cache: for each task, and for tasks that have none. Thread-safe.

    Args:
        cache: The folder.
    """

    def __init__(self, cache: Path) -> None:
        self._cache, self._lock = cache, threading.Lock()
        self._open: dict[str, int] = {}

    @property
    def any(self) -> bool:
        """Whether there are some for tasks that have none of their own."""
        return self._path("").exists()

    def has(self, task: str) -> bool:
        """Whether a task (by name; empty: any other) has some."""
        return self._path(task).exists()

    def add(self, task: str, content: bytes) -> None:
        """Keep what `pack` gave; workers that start from now on get it."""
        write_atomically(self._path(task), content)
        with self._lock:
            if (old := self._open.pop(task, None)) is not None:
                os.close(old)

    def of(self, task: str) -> tuple[int, ...]:
        """A descriptor of a task's provisions, or of the general ones; nothing if there are none."""
        with self._lock:
            for name in (task, ""):
                if name not in self._open:
                    with contextlib.suppress(OSError):
                        self._open[name] = sealed(self._path(name).read_bytes())
                if name in self._open:
                    return (self._open[name],)
        return ()

    def _path(self, task: str) -> Path:
        return self._cache / f"provisions{f'-{task}' if task else ''}.tar"

    def close(self) -> None:
        """Close all descriptors."""
        with self._lock:
            while self._open:
                os.close(self._open.popitem()[1])
