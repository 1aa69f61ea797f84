"""Start and end the fork server. Imports no torch, so that the server's own imports can begin before the judge's."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from .protocol import Channel

_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH", "CUDA_VISIBLE_DEVICES", "PYTHONPATH", "LANG", "VIRTUAL_ENV", "CXX")


class ForkServer:
    """A running fork server; it serves `control` as soon as its imports are done.

    Args:
        kind: Device kind that its workers serve.
    """

    def __init__(self, kind: str) -> None:
        mine, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "fastkernels_env.worker", str(theirs.fileno()), kind],
                pass_fds=[theirs.fileno()], env=server_environment(), start_new_session=True, stdin=subprocess.DEVNULL,
            )
        self.control = Channel(mine)

    def close(self) -> None:
        """End it and with it every worker."""
        self.control.close()
        try:
            self._process.wait(timeout=3)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def server_environment() -> dict[str, str]:
    """The environment that workers start from: what compilers need, and nothing else of the caller's."""
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    # A bounded spin before OpenMP threads sleep: without it a busy neighbour stalls every parallel region for a scheduler's quantum.
    return passed_on | {"PYTHONUNBUFFERED": "1", "GOMP_SPINCOUNT": "20000"}
