"""The fork server: an exec'd, single-threaded process that has torch imported and forks one worker per submission or baseline.

It runs no parallel operation (a forked child of an OpenMP user hangs) and never initialises CUDA: it does not even import what asks
for the number of devices (tvm-ffi does), since torch then refuses CUDA to every forked child. Submissions get a confined tree of their own
(see `sandbox.confine`), which this process watches from outside. Baselines are trusted and run as this process does, under a user
that no submission has; it is the subreaper of everything below them, so a descendant that detaches itself comes back here and is ended.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import select
import signal
import socket
import time
from pathlib import Path

import torch  # noqa: F401 -- preloaded once, shared by every fork

from ..protocol import Channel, Closed, Ended, Kill, Refused, ServerRequest, Spawn, Spawned
from ..sandbox import confine, linux, running
from ..sandbox.limits import default_limits
from ..sandbox.meter import Meter
from ..sandbox.roots import find_roots
from ..sandbox.watch import PERIOD
from .child import run_child
from .preload import Preload

_GRACE = 0.3
"""Seconds that a worker whose channel closed gets to end by itself, so that its own signal is reported."""
_LARGEST_FILE = 1 << 30


def serve(control_fd: int, device: str) -> None:
    """Serve spawn and kill requests until the judge closes the control socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    linux.die_with_parent(signal.SIGKILL)
    linux.become_subreaper()
    if device == "cuda":
        import triton  # noqa: F401
    gc.freeze()
    server = _Server(control_fd, device)
    try:
        while True:
            server.serve_one()
    except Closed:
        pass
    finally:
        server.close()


class _Server:
    def __init__(self, control_fd: int, device: str) -> None:
        self._control_fd = control_fd
        self._control = Channel(socket.socket(fileno=control_fd))
        self._limits, self._roots, self._device = default_limits(), find_roots(), device
        self._meter = Meter(self._limits.device) if device == "cuda" else None
        self._trusted: dict[int, int] = {}
        self._confined: dict[int, running.Tree] = {}
        self._preload: Preload | None = None
        # OpenMP has bound this thread to the core on which workers wake. They inherit that; the watch had better be elsewhere.
        self._bound, self._free = os.sched_getaffinity(0), os.sched_getaffinity(os.getppid())

    def serve_one(self) -> None:
        """Answer one request; while there is none, watch, and import the compile stack."""
        pause: float | None = 0.0
        while not select.select([self._control_fd], [], [], pause)[0]:
            pause = self._idle()
        request, fds = self._control.receive(ServerRequest)
        match request:
            case Spawn():
                os.sched_setaffinity(0, self._bound)
                try:
                    self._control.send(self._spawn(request, fds))
                except OSError as error:
                    self._control.send(Refused(str(error)))
                finally:
                    os.sched_setaffinity(0, self._free)
                    for fd in fds:
                        os.close(fd)
            case Kill():
                self._control.send(self._end(request.worker, _GRACE))

    def _idle(self) -> float | None:
        """What is done while no request waits; seconds until it should be done again, None if there is nothing to do."""
        for tree in self._confined.values():
            tree.look()
        pause = self._preload.step() if self._preload is not None else None
        return pause if pause is not None else PERIOD if self._confined else None

    def close(self) -> None:
        """End every worker."""
        for pid in self._trusted.values():
            _signal(-pid)  # all at once: each takes tens of milliseconds to give its memory back
        for worker in [*self._trusted, *self._confined]:
            self._end(worker, grace=0.0)
        if self._meter is not None:
            self._meter.close()

    def _spawn(self, request: Spawn, fds: list[int]) -> Spawned:
        *kept, log = fds
        # Not before: the first worker is waited for.
        self._preload = self._preload or Preload(self._device, self._trusted, request.proved)
        if request.stack:
            self._preload.finish()
        if request.trusted:
            pid = self._fork_trusted(request, kept, log)
            self._trusted[request.worker] = pid
            return Spawned(pid, pid, helpers=self._helpers())
        cuda = request.device == "cuda"
        policy = running.Policy(
            request.scratch, self._roots, self._limits, cuda, self._meter.read if self._meter else None, request.ranks > 1
        )
        tree = confine.start(policy, lambda: run_child(request, kept, self._free), set(kept), log)
        self._confined[request.worker] = tree
        return Spawned(tree.worker, tree.top, tree.report.missing, self._helpers())

    def _helpers(self) -> tuple[int, ...]:
        meter = () if self._meter is None else (self._meter.pid,)
        trial = self._preload.trial if self._preload is not None else None
        return meter if trial is None else (*meter, trial)

    def _fork_trusted(self, request: Spawn, kept: list[int], log: int) -> int:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                linux.close_others({*kept, log})
                linux.die_with_parent(signal.SIGKILL)
                os.setsid()
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                os.dup2(log, 1)
                os.dup2(log, 2)
                os.close(log)
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                resource.setrlimit(resource.RLIMIT_FSIZE, (_LARGEST_FILE, _LARGEST_FILE))
                run_child(request, kept, self._free)
                status = 0
            finally:
                os._exit(status)
        return pid

    def _end(self, worker: int, grace: float) -> Ended:
        if (tree := self._confined.pop(worker, None)) is not None:
            return _end_confined(tree, grace)
        pid = self._trusted.pop(worker, None)
        if pid is None:  # it was a child of a fork server before this one
            return Ended(killed=True, code=0, signal=0)
        return self._end_trusted(pid, grace)

    def _end_trusted(self, pid: int, grace: float) -> Ended:
        """Kill a worker's process group, then every orphan that came back to this process."""
        status = _wait(pid, grace)
        killed = status is None
        _signal(-pid)
        if status is None:
            _signal(pid)
            status = os.waitpid(pid, 0)[1]
        own = {*self._trusted.values(), *(tree.top for tree in self._confined.values())}
        if self._meter is not None:
            own.add(self._meter.pid)
        while orphans := _children() - own:
            for orphan in orphans:
                _signal(orphan)
                os.waitpid(orphan, 0)
        return Ended(killed=killed, code=os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 0,
                     signal=os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0)


def _end_confined(tree: running.Tree, grace: float) -> Ended:
    ended = None if tree.reason else tree.wait(grace)
    tree.end()
    if ended is None or tree.reason:
        return Ended(killed=True, code=0, signal=0, reason=tree.reason)
    return Ended(killed=False, code=ended.code, signal=ended.signal)


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
