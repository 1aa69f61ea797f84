"""Start and end the fork server. Imports no torch, so that the server's own imports can begin before the judge's."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from .protocol import Channel

_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH", "CUDA_VISIBLE_DEVICES", "PYTHONPATH", "LANG", "VIRTUAL_ENV", "CXX")
_SETTINGS = ("FASTKERNELS_ENV_PATH", "FASTKERNELS_UID_BASE", "FASTKERNELS_MEMORY_GB", "FASTKERNELS_DEVICE_MEMORY_GB")
"""Of the processes that confine others."""


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
                pass_fds=[theirs.fileno()], env=worker_environment(kind) | settings(), start_new_session=True, stdin=subprocess.DEVNULL,
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


def tool_environment() -> dict[str, str]:
    """The environment of compilers and workers: what they need, and nothing else of the caller's."""
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | {"PYTHONUNBUFFERED": "1"}


def settings() -> dict[str, str]:
    """What the caller has set about containment."""
    return {name: os.environ[name] for name in _SETTINGS if name in os.environ}


def worker_environment(kind: str) -> dict[str, str]:
    """The environment that workers of a device kind start from."""
    return tool_environment() | _ALONE | _RANKS | (_STEADY if kind == "cpu" else _QUEUES)


_ALONE = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
"""The fork server imports Inductor, which reads this then. With more it starts a process to compile in, which imports torch for seconds."""
_RANKS = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo", "NCCL_NVLS_ENABLE": "0"}
"""Ranks are on one host, in a network that has a loopback alone. NVLink multicast needs a fabric manager that not every host runs."""
_QUEUES = {"CUDA_DEVICE_MAX_CONNECTIONS": "4"}
"""Hardware queues of a context, for submissions and baselines alike. The driver makes contexts one at a time, and what one takes grows with
its queues and with those of all others: 0.29 s for eight, the default, beside 24 such contexts, 0.07 s for one beside 24 such. Four let as
many streams run side by side."""
_STEADY = {
    # Where OpenMP threads may share a core, the scheduler lets them take turns on one while the other idles, for longer than a block
    # lasts; where they spin for long, a busy neighbour stalls every parallel region.
    "OMP_PROC_BIND": "true", "GOMP_SPINCOUNT": "20000",
    # glibc returns large blocks to the kernel or keeps them, as each process's history has it: page faults that make the same eager code
    # many times slower in one worker than in another. Servers use an allocator that keeps them.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
}
