"""The first process of a confined tree: reaps orphans, keeps the end of what is printed, tells how the worker ended, and ends the rest."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal

from .tree import descendants

OUTPUT_KEPT = 1 << 20
"""Bytes of output that are kept at least, if there are so many; twice that at most."""
_CHUNK = 1 << 16
_MOST_AFTER = 16
"""Chunks that are read after the worker's end: something else may go on writing for ever."""


class Tail:
    """A file that holds the end of what is written to it."""

    def __init__(self, descriptor: int, kept: int = OUTPUT_KEPT) -> None:
        self._descriptor, self._kept, self._size = descriptor, kept, 0

    def add(self, data: bytes) -> None:
        """Append."""
        if self._size + len(data) > 2 * self._kept:
            end = os.pread(self._descriptor, self._kept, max(self._size - self._kept, 0))
            os.pwrite(self._descriptor, end, 0)
            os.ftruncate(self._descriptor, len(end))
            self._size = len(end)
        os.pwrite(self._descriptor, data, self._size)
        self._size += len(data)


def attend(worker: int, output: int, log: int, status: int) -> None:
    """Attend to the tree until the worker ends; then tell how it did and end everything else.

    Args:
        worker: Process id of the worker, a child.
        output: Read end of the pipe into which the tree prints.
        log: File that keeps the end of it.
        status: Pipe that gets one line of JSON, ``code`` and ``signal``.
    """
    wake, poke = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(poke, warn_on_full_buffer=False)
    os.set_blocking(output, False)
    tail, poll = Tail(log), select.poll()
    poll.register(wake, select.POLLIN)
    poll.register(output, select.POLLIN)
    while (ended := _reap(worker)) is None:
        for descriptor, event in poll.poll():
            if descriptor == wake:
                os.read(wake, _CHUNK)
            elif not _copy(output, tail) and event & (select.POLLHUP | select.POLLERR):
                poll.unregister(output)
    for _ in range(_MOST_AFTER):
        if not _copy(output, tail):
            break
    answer = {"code": os.waitstatus_to_exitcode(ended), "signal": 0} if os.WIFEXITED(ended) else {"code": 0, "signal": os.WTERMSIG(ended)}
    os.write(status, json.dumps(answer).encode() + b"\n")
    if os.getpid() != 1:  # the kernel ends the others with the first process of a namespace, and only with that
        _end_others()


def _reap(worker: int) -> int | None:
    """Reap whatever has ended; the worker's status if it is among them."""
    found = None
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == worker:
                found = status
    return found


def _copy(output: int, tail: Tail) -> bool:
    """Copy one chunk; False if there is none now."""
    try:
        data = os.read(output, _CHUNK)
    except BlockingIOError:
        return False
    tail.add(data)
    return bool(data)


def _end_others() -> None:
    while others := descendants(os.getpid()):
        for pid in others:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _reap(0)
