"""A process and all that it started, seen from outside: found, stopped, continued, ended."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Sequence

_STOPPED = frozenset("TtZX")
_LOOKS = 500
"""About 50 ms."""


def descendants(pid: int) -> list[int]:
    """Living processes below `pid`, parents first, `pid` itself not among them."""
    found: list[int] = []
    queue = [pid]
    while queue:
        children = _children(queue.pop())
        found += children
        queue += children
    return found


def _children(pid: int) -> list[int]:
    """Children of every thread of a process."""
    children: list[int] = []
    folder = f"/proc/{pid}/task"
    try:
        threads = os.listdir(folder)
    except OSError:
        return children
    for thread in threads:
        try:
            children += map(int, _read(f"{folder}/{thread}/children").split())
        except FileNotFoundError:
            if os.path.exists(f"{folder}/{thread}"):  # a kernel that does not list them
                return _children_by_scan(pid)
        except OSError:
            continue
    return children


def _read(path: str) -> bytes:
    """A small file, in as few system calls as it takes."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, 1 << 16)
    finally:
        os.close(descriptor)


def _children_by_scan(pid: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                if int(_read(f"/proc/{name}/stat").rpartition(b")")[2].split()[1]) == pid:
                    found.append(int(name))
    return found


def stop(pid: int) -> list[int]:
    """Stop a process and all below it; returns when every thread of them has stopped, with their process ids, as `resume` takes them.

    A process that is about to have a child may still have it: so the walk is repeated until it finds nothing that runs. A thread inside
    of a driver's call stops at its end; it is not waited for longer than a moment.
    """
    stopped: set[int] = set()
    while fresh := [process for process in (pid, *descendants(pid)) if process not in stopped]:
        _halt(fresh)
        stopped.update(fresh)
    return sorted(stopped)


def freeze(pid: int) -> list[int]:
    """As `stop`, for a process that stops and resumes others itself: what it has stopped is left to it, and is not in the answer."""
    _halt([pid])  # first: from now on nobody else stops or resumes what is below it
    frozen, known = [pid], {pid}
    while fresh := [process for process in descendants(pid) if process not in known]:
        running = [process for process in fresh if not _has_stopped(process)]
        _halt(running)
        frozen += running
        known.update(fresh)
    return frozen


def freeze_all(pids: Sequence[int]) -> dict[int, list[int]]:
    """As `freeze` for several processes at once, by process id: in one look at all processes, without waiting until they stand still."""
    for pid in pids:
        _signal(pid, signal.SIGSTOP)
    children, stopped = _census()
    frozen = {}
    for pid in pids:
        below, queue = [pid], [pid]
        while queue:
            found = children.get(queue.pop(), [])
            below += [process for process in found if process not in stopped]
            queue += found
        for process in below[1:]:
            _signal(process, signal.SIGSTOP)
        frozen[pid] = below
    return frozen


def _census() -> tuple[dict[int, list[int]], set[int]]:
    """Children by parent, of all processes, and which of these do not run."""
    children: dict[int, list[int]] = {}
    stopped = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                state, parent = _read(f"/proc/{name}/stat").rpartition(b") ")[2].split(maxsplit=2)[:2]
                children.setdefault(int(parent), []).append(int(name))
                if chr(state[0]) in _STOPPED:
                    stopped.add(int(name))
    return children, stopped


def _halt(processes: Sequence[int]) -> None:
    """Stop these processes; returns when none of their threads runs, or after a moment."""
    left = list(processes)
    for _ in range(_LOOKS):  # not until a deadline, which could pass while this process is frozen itself
        for process in left:  # each time: whoever froze this process meanwhile may have let them go on
            _signal(process, signal.SIGSTOP)
        left = [process for process in left if not _has_stopped(process)]
        if not left:
            break
        time.sleep(2e-5)  # it may be waiting for the core that this thread is on


def resume(processes: Sequence[int], first: int) -> None:
    """Continue what `stop` stopped.

    A clock may be running: so the one that it waits for comes first, and nobody is looked for who is known already.
    """
    _signal(first, signal.SIGCONT)
    for process in processes:
        if process != first:
            _signal(process, signal.SIGCONT)


def kill(pid: int) -> None:
    """End a process and all below it, however often it starts new ones. The caller reaps what is its child."""
    stop(pid)
    for process in [*reversed(descendants(pid)), pid]:
        _signal(process, signal.SIGKILL)


def threads(pid: int) -> int:
    """Number of threads of a process; 0 if it is gone."""
    with contextlib.suppress(OSError):
        return len(os.listdir(f"/proc/{pid}/task"))
    return 0


def _has_stopped(pid: int) -> bool:
    """Whether no thread of a process runs."""
    folder = f"/proc/{pid}/task"
    with contextlib.suppress(OSError):
        for thread in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if chr(_read(f"{folder}/{thread}/stat").rpartition(b") ")[2][0]) not in _STOPPED:
                    return False
    return True


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
