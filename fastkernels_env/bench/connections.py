"""The connections of this process to the actors of a cluster on this machine: found and cut, as a network does."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

_LISTENS = "0A"


def cut(pid: int) -> int:
    """Cut every connection of this process to what another one listens on; how many there were."""
    ports, count = _listening(pid), 0
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as end:
            if end.family in (socket.AF_INET, socket.AF_INET6) and end.getpeername()[1] in ports:
                end.shutdown(socket.SHUT_RDWR)
                count += 1
    return count


def _listening(pid: int) -> set[int]:
    """Ports of TCP on which a process listens."""
    inodes: set[str] = set()
    with contextlib.suppress(OSError):
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                inodes.add(os.readlink(path).removeprefix("socket:[").removesuffix("]"))
    lines = [line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    return {int(fields[1].rpartition(":")[2], 16) for fields in lines if fields[3] == _LISTENS and fields[9] in inodes}
