"""How much one submission may take of the host."""

from __future__ import annotations

import contextlib
import os
import resource
from typing import NamedTuple

_GIB = 1 << 30


class Limits(NamedTuple):
    """Limits of one confined tree. Sizes in bytes; `FASTKERNELS_MEMORY_GB` and `FASTKERNELS_DEVICE_MEMORY_GB` set two of them.

    Attributes:
        memory: Memory of all its processes together.
        host: Memory that must stay free on the host.
        scratch: Scratch folder.
        shared: Private ``/dev/shm``.
        file: Largest file.
        processes: Processes and threads.
        descriptors: Open files of one process.
        device: Memory of a GPU; 0 for a share of it that is decided where its size is known.
    """

    memory: int
    host: int
    scratch: int
    shared: int
    file: int
    processes: int
    descriptors: int
    device: int


def default_limits() -> Limits:
    """Limits for this host: half of its memory and at most 32 GiB, and the rest in proportion."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    memory = _configured("FASTKERNELS_MEMORY_GB") or min(total // 2, 32 * _GIB)
    return Limits(
        memory=memory, host=min(total // 32, _GIB), scratch=min(memory // 4, 2 * _GIB), shared=min(memory // 8, _GIB // 2), file=_GIB,
        processes=256 + 8 * (os.cpu_count() or 1), descriptors=4096, device=_configured("FASTKERNELS_DEVICE_MEMORY_GB"),
    )


def _configured(name: str) -> int:
    """A size in GB from the environment; 0 if it is not there."""
    try:
        return int(float(os.environ.get(name, 0)) * 1e9)
    except ValueError:
        raise ValueError(f"{name}: expected a number of gigabytes, got {os.environ[name]!r}") from None


def apply_limits(limits: Limits, own_uid: bool) -> None:
    """Set the limits that the kernel keeps.

    Args:
        limits: The limits.
        own_uid: Whether no other process counts for this user: the kernel counts processes per user.
    """
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, limits.file)
    _lower(resource.RLIMIT_NOFILE, limits.descriptors)
    _lower(resource.RLIMIT_MSGQUEUE, 0)
    if own_uid:
        _lower(resource.RLIMIT_NPROC, limits.processes)


def _lower(name: int, value: int) -> None:
    with contextlib.suppress(ValueError):  # it is lower already
        hard = resource.getrlimit(name)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (value, value))


def gigabytes(size: int) -> str:
    """A size for a sentence."""
    return f"{size / 1e9:.1f} GB"
