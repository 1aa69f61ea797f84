"""A process that reads who holds a GPU's memory, so that the one that watches neither loads the driver's library nor waits for it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time

from . import linux
from .nvml import NvmlError, device_memory_by_process, device_memory_total

_PERIOD = 0.25
_DEFAULT_SHARE = 0.6
"""Of a GPU's memory: the judge's buffers and the baselines need the rest."""


class Meter:
    """Forks the process. Children that are forked later must not inherit the library's state, so this one must never load it.

    Args:
        limit: Bytes of GPU memory that one tree may take; 0 for a share of the GPU.
    """

    def __init__(self, limit: int) -> None:
        self._descriptor, theirs = os.pipe2(os.O_CLOEXEC)
        self._held: dict[int, int] = {}
        self._limit, self._line = limit or 1 << 62, b""
        self.pid = os.fork()
        if self.pid == 0:
            with contextlib.suppress(BaseException):
                linux.close_others({theirs})
                linux.die_with_parent(signal.SIGKILL)
                _measure(theirs, limit)
            os._exit(0)
        os.close(theirs)

    def read(self) -> tuple[dict[int, int], int]:
        """What was read last: bytes by process id, and the limit. Never waits."""
        while select.select([self._descriptor], [], [], 0)[0]:
            data = os.read(self._descriptor, 1 << 16)
            if not data:
                break
            *whole, self._line = (self._line + data).split(b"\n")
            for line in whole[-1:]:
                self._limit, held = json.loads(line)
                self._held = {int(pid): size for pid, size in held.items()}
        return self._held, self._limit

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._descriptor)


def _measure(descriptor: int, limit: int) -> None:
    limit = limit or int(device_memory_total() * _DEFAULT_SHARE) or 1 << 62
    while True:
        with contextlib.suppress(NvmlError):
            os.write(descriptor, json.dumps([limit, device_memory_by_process()]).encode() + b"\n")
        time.sleep(_PERIOD)
