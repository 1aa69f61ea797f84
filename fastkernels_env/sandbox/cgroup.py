"""A memory control group of one tree, where this process may make one: it also counts memory that no process maps."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


class MemoryGroup:
    """A control group with a limit.

    Args:
        name: Its folder's name, unique on this host.
        limit: Bytes.

    Raises:
        OSError: There is no hierarchy to which this process can add one.
    """

    def __init__(self, name: str, limit: int) -> None:
        parent, self._unified = _own_group()
        self._folder = parent / name
        self._folder.mkdir()
        try:
            self._write("memory.max" if self._unified else "memory.limit_in_bytes", str(limit))
        except OSError:
            self.close()
            raise

    def add(self, pid: int) -> None:
        """Move a process; what it starts afterwards follows it."""
        self._write("cgroup.procs", str(pid))

    def used(self) -> int:
        """Bytes that are charged now, files that could be dropped among them."""
        return int((self._folder / ("memory.current" if self._unified else "memory.usage_in_bytes")).read_text())

    def was_exceeded(self) -> bool:
        """Whether the kernel ended a process because of the limit."""
        with contextlib.suppress(OSError):
            text = (self._folder / ("memory.events" if self._unified else "memory.oom_control")).read_text()
            return any(line.split()[0] == "oom_kill" and line.split()[1] != "0" for line in text.splitlines())
        return False

    def close(self) -> None:
        """Remove it; its processes have ended."""
        for _ in range(100):
            try:
                self._folder.rmdir()
                return
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(1e-3)  # the last one is still on its way out

    def _write(self, name: str, text: str) -> None:
        descriptor = os.open(self._folder / name, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)


def _own_group() -> tuple[Path, bool]:
    """Folder of this process's memory group, and whether it is of the unified hierarchy."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return _ROOT / "memory" / path.lstrip("/"), False
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, _, path = line.split(":", 2)
        folder = _ROOT / path.lstrip("/")
        if number == "0" and "memory" in (folder / "cgroup.subtree_control").read_text().split():
            return folder, True
    raise OSError("no memory control group can be made here")
