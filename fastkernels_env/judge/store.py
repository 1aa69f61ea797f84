"""Provisions that a host keeps (see `provisions`), ready to be handed to workers."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from ..cache import write_atomically
from ..provisions import sealed


class Store:
    """The provisions in a host's cache. Thread-safe.

    Args:
        cache: The folder.
    """

    def __init__(self, cache: Path) -> None:
        self._path, self._lock = cache / "provisions.tar", threading.Lock()
        self._descriptor: int | None = None

    @property
    def present(self) -> bool:
        """Whether there are any."""
        return self._path.exists()

    def keep(self, content: bytes) -> None:
        """Keep what `pack` gave; workers that start from now on get it."""
        write_atomically(self._path, content)
        self.close()

    def drop(self) -> None:
        """Forget them."""
        self._path.unlink(missing_ok=True)
        self.close()

    @contextlib.contextmanager
    def lent(self) -> Iterator[tuple[int, ...]]:
        """A descriptor of the provisions, to be handed on; nothing if there are none."""
        with self._lock:
            if self._descriptor is None:
                with contextlib.suppress(OSError):
                    self._descriptor = sealed(self._path.read_bytes())
            lent = () if self._descriptor is None else (os.dup(self._descriptor),)
        try:
            yield lent
        finally:
            for descriptor in lent:
                os.close(descriptor)

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None
