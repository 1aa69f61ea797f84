"""What a process of this machine is, as seen from outside."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def actor_processes() -> list[int]:
    """Process ids of a fleet's actors on this machine, by what Ray calls them."""
    return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if _line(path).startswith(b"ray::Judges")]


def is_judge(pid: int) -> bool:
    """Whether it is a judge of a pool."""
    return b"fastkernels_env.pool" in _line(Path(f"/proc/{pid}/cmdline"))


def is_confined(pid: int) -> bool:
    """Whether it lives in a namespace of processes of its own, as a submission's do."""
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/ns/pid") != os.readlink("/proc/self/ns/pid")
    return False


def name_of(pid: int) -> str:
    """What it runs, or calls itself; empty if it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def _line(path: Path) -> bytes:
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return b""
