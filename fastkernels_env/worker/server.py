"""The fork server: an exec'd, single-threaded process that has torch imported and forks one worker per submission.

It runs no parallel operation (a forked child of an OpenMP user hangs) and never initialises CUDA: it does not even import what asks
for the number of devices (tvm-ffi does), since torch then refuses CUDA to every forked child. It is the subreaper of everything
below it, so a descendant that detaches itself from its worker comes back here and is ended with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import socket
import time
from pathlib import Path

import torch  # noqa: F401 -- preloaded once, shared by every fork

from ..protocol import Channel, Closed, Ended, Kill, ServerRequest, Spawn, Spawned
from .child import run_child
from .preload import Preload

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_GRACE = 0.3
"""Seconds that a worker whose channel closed gets to end by itself, so that its own signal is reported."""


def serve(control_fd: int, device: str) -> None:
    """Serve spawn and kill requests until the judge closes the control socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if device == "cuda":
        import triton  # noqa: F401
    gc.freeze()
    control = Channel(socket.socket(fileno=control_fd))
    workers: dict[int, int] = {}
    preload: Preload | None = None
    try:
        while True:
            if preload is not None:
                preload.idle(control_fd)
            request, fds = control.receive(ServerRequest)
            match request:
                case Spawn():
                    preload = preload or Preload(device, workers)  # not before: the first worker is waited for
                    if request.stack:
                        preload.finish()
                    workers[request.worker] = _fork(request, fds, control_fd, libc)
                    control.send(Spawned(workers[request.worker]))
                case Kill():
                    pid = workers.pop(request.worker, None)  # None: it was a child of a fork server before this one
                    control.send(Ended(killed=True, code=0, signal=0) if pid is None else _end(pid, workers))
    except Closed:
        pass
    finally:
        for pid in workers.values():
            _signal(-pid)  # all at once: each takes tens of milliseconds to give its memory back
        for worker in list(workers):
            _end(workers.pop(worker), workers, grace=0.0)


def _fork(request: Spawn, fds: list[int], control_fd: int, libc: ctypes.CDLL) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(control_fd)
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            run_child(request, fds)
            status = 0
        finally:
            os._exit(status)
    for fd in fds:
        os.close(fd)
    return pid


def _end(pid: int, living: dict[int, int], grace: float = _GRACE) -> Ended:
    """Kill a worker's process group, then every orphan that came back to this process."""
    status = _wait(pid, grace)
    killed = status is None
    _signal(-pid)
    if status is None:
        _signal(pid)
        status = os.waitpid(pid, 0)[1]
    while orphans := _children() - set(living.values()):
        for orphan in orphans:
            _signal(orphan)
            os.waitpid(orphan, 0)
    return Ended(killed=killed, code=os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 0,
                 signal=os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0)


def _wait(pid: int, seconds: float) -> int | None:
    deadline = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.005)


def _signal(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _children() -> set[int]:
    """Process ids whose parent is this process."""
    me, found = os.getpid(), set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue
            if parent == me:
                found.add(int(entry.name))
    return found
