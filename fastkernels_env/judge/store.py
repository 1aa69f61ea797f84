"""Provisions that a host keeps (see `provisions`), ready to be handed to workers."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..cache import write_atomically
from ..provisions import pack, sealed
from .errors import JudgeFault, StepFailed, WorkerError

if TYPE_CHECKING:
    from .host import WorkerHost

_SECONDS = 60.0


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


def provide(host: WorkerHost, force: bool = False) -> None:
    """Let the compile stack of a GPU host compile in a trusted worker what it compiles in every other, and keep it.

    Args:
        host: Whose cache gets it; on a CPU host the stack compiles nothing that takes long.
        force: Also if the host has it.

    Raises:
        JudgeFault: No worker could be started, or the compile stack of this host cannot be used.
    """
    if host.device.kind != "cuda" or (host.provisions.present and not force):
        return
    session = host.spawn(trusted=True, stack=True, own_caches=True)
    try:
        session.watch(True, _SECONDS)
        host.provisions.keep(pack(session.scratch))
    except (WorkerError, StepFailed) as error:
        raise JudgeFault(f"the compile stack of this host cannot be used: {error.summary}") from None
    finally:
        session.close()
