"""What evaluations leave behind on this machine, seen from outside: processes, descriptors, memory, folders.

Everything is counted in /proc, in the temporary folder and, for a GPU, by the driver; nothing is asked of a worker. Another evaluator
that works in the same temporary folder is counted too: give each a folder of its own (TMPDIR).
"""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import tempfile
from pathlib import Path

import msgspec

_PREFIX = "fastkernels-"
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Traces(msgspec.Struct, frozen=True, kw_only=True):
    """Counts at one moment; the difference of two is what was left behind."""

    processes: int
    """Descendants of this process, and processes that work in one of our scratch folders."""
    descriptors: int
    memory_files: int
    """Descriptors of memory files."""
    sockets: int
    """Descriptors of sockets."""
    shared_segments: int
    """System V segments and files in /dev/shm."""
    folders: int
    """Scratch and build folders in the temporary folder."""
    rss_bytes: int
    """Resident memory of this process."""
    gpu_bytes: int = 0
    """Used memory of all GPUs, whoever uses it."""

    def since(self, earlier: Traces) -> dict[str, int]:
        """What is there now and was not there earlier."""
        return {name: getattr(self, name) - getattr(earlier, name) for name in self.__struct_fields__}


LEAKS = tuple(name for name in Traces.__struct_fields__ if not name.endswith("_bytes"))
"""The counts that must be what they were; memory in bytes fluctuates and is reported beside them."""


def look(device: str) -> Traces:
    """Count now. `device` is the device kind."""
    gc.collect()  # the frames of an exception may hold on to memory until then
    links = _descriptors()
    return Traces(
        processes=len(_processes()), descriptors=len(links), memory_files=sum(link.startswith("/memfd:") for link in links),
        sockets=sum(link.startswith("socket:") for link in links), shared_segments=_segments(), folders=len(_folders()),
        rss_bytes=int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE, gpu_bytes=_gpu_bytes() if device == "cuda" else 0,
    )  # fmt: skip


def _descriptors() -> list[str]:
    links = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own descriptor
            links.append(os.readlink(f"/proc/self/fd/{name}"))
    return links


def _processes() -> set[int]:
    """Living descendants of this process, and orphans of theirs that still work in a scratch folder."""
    parents, found = {}, set()
    scratch = os.path.join(tempfile.gettempdir(), _PREFIX)
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(entry.name)] = int(parent)
                if os.readlink(entry / "cwd").startswith(scratch):
                    found.add(int(entry.name))
    family, size = {os.getpid()}, 0
    while len(family) > size:
        size = len(family)
        family |= {pid for pid, parent in parents.items() if parent in family}
    return (found | family) - {os.getpid()}


def _folders() -> list[str]:
    return [name for name in os.listdir(tempfile.gettempdir()) if name.startswith(_PREFIX)]


def _segments() -> int:
    count = 0
    with contextlib.suppress(OSError):
        count += len(Path("/proc/sysvipc/shm").read_text().splitlines()) - 1
    with contextlib.suppress(OSError):
        count += len(os.listdir("/dev/shm"))
    return count


def _gpu_bytes() -> int:
    """Used memory of all GPUs in bytes, as NVML tells it; 0 if it does not."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):
        lines = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.split()
        return sum(int(line) for line in lines) << 20
    return 0
