"""The judge's handle on the fork server: start it, ask it for workers, have them ended."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from ..device import Device
from ..protocol import MAX_REPLY, Channel, Closed, Ended, Kill, ServerReply, Spawn, Spawned
from .errors import JudgeFault
from .session import WorkerSession

_START_SECONDS = 60.0
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH", "CUDA_VISIBLE_DEVICES", "PYTHONPATH", "LANG", "VIRTUAL_ENV")
_LOG_TAIL = 8000


class WorkerHost:
    """One fork server and the workers it has forked. Thread-safe.

    Args:
        device: The device that workers serve.
        cache: Folder in which trusted workers (baselines) keep compiled code.
    """

    def __init__(self, device: Device, cache: Path) -> None:
        self.device, self.cache = device, cache
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._process, self._control = start_server(device.kind)

    def spawn(self, *, trusted: bool = False) -> WorkerSession:
        """Fork a worker.

        Args:
            trusted: A baseline: keeps its compile caches between evaluations.

        Raises:
            JudgeFault: The fork server is gone and could not be started again.
        """
        scratch = Path(tempfile.mkdtemp(prefix="fastkernels-"))
        worker, clock = next(self._ids), self.device.new_clock()
        judge_end, worker_end = socket.socketpair()
        log = os.memfd_create("log", os.MFD_CLOEXEC)
        environment = self._environment(scratch, trusted)
        fds = (worker_end.fileno(), clock.go, clock.done, clock.page, log)
        reply = self._ask(Spawn(worker, self.device.kind, str(scratch), environment), fds)
        worker_end.close()
        assert isinstance(reply, Spawned)
        return WorkerSession(self, worker, reply.pid, Channel(judge_end, limit=MAX_REPLY), clock, log, scratch)

    def end(self, worker: int) -> Ended:
        """End a worker and every descendant of it; says how it ended."""
        reply = self._ask(Kill(worker))
        assert isinstance(reply, Ended)
        return reply

    def _ask(self, request: Spawn | Kill, fds: tuple[int, ...] = ()) -> Spawned | Ended:
        with self._lock:
            try:
                return self._exchange(request, fds)
            except (Closed, TimeoutError):
                self._stop()
                self._process, self._control = start_server(self.device.kind)
                if isinstance(request, Kill):
                    return Ended(killed=True, code=0, signal=9)
            try:
                return self._exchange(request, fds)
            except (Closed, TimeoutError) as error:
                raise JudgeFault("the fork server ended twice while a worker was asked for") from error

    def _exchange(self, request: Spawn | Kill, fds: tuple[int, ...]) -> Spawned | Ended:
        deadline = time.monotonic() + _START_SECONDS
        self._control.send(request, fds, deadline)
        reply, _ = self._control.receive(ServerReply, deadline)
        assert isinstance(reply, Spawned | Ended)
        return reply

    def _environment(self, scratch: Path, trusted: bool) -> dict[str, str]:
        caches = self.cache if trusted else scratch
        return {
            **server_environment(),
            "HOME": str(scratch), "TMPDIR": str(scratch),
            "TRITON_CACHE_DIR": str(caches / "triton"), "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
            "FLASHINFER_WORKSPACE_BASE": str(caches), "TORCHINDUCTOR_COMPILE_THREADS": "1", "TORCH_LOGS": "",
        }

    def close(self) -> None:
        """End the fork server and with it every worker."""
        with self._lock:
            self._stop()

    def _stop(self) -> None:
        self._control.close()
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


def start_server(kind: str) -> tuple[subprocess.Popen[bytes], Channel]:
    """Start a fork server; it answers as soon as its imports are done."""
    mine, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "fastkernels_env.worker", str(theirs.fileno()), kind],
            pass_fds=[theirs.fileno()], env=server_environment(), start_new_session=True, stdin=subprocess.DEVNULL,
        )
    return process, Channel(mine)


def remove_scratch(scratch: Path) -> None:
    """Remove a worker's scratch folder."""
    shutil.rmtree(scratch, ignore_errors=True)


def read_log(descriptor: int) -> str:
    """The end of what a worker printed."""
    with contextlib.suppress(OSError):
        size = os.fstat(descriptor).st_size
        return os.pread(descriptor, _LOG_TAIL, max(0, size - _LOG_TAIL)).decode(errors="replace")
    return ""
