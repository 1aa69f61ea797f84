"""What the compile stack compiles for its own use, the same in every process: made once per host, given to every worker.

A worker's compile caches are its own, so that no submission reads what another one wrote. But Triton's helper library and the first graph
that Inductor compiles come out the same each time, after seconds. So a trusted worker, which never loads anything, makes them once. Every
worker of a submission unpacks a copy of that into caches of its own, from a file in memory that nobody can write to any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import tarfile
from pathlib import Path, PurePosixPath

CACHES = {"TRITON_CACHE_DIR": "triton", "TORCHINDUCTOR_CACHE_DIR": "inductor"}
"""Folders of a worker's caches, by the variable that names each."""
_HERE = b"@folder@"
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def pack(folder: str | Path) -> bytes:
    """The caches in a worker's folder as a tar archive."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for path in sorted(path for name in CACHES.values() for path in Path(folder, name).rglob("*") if path.is_file()):
            content = path.read_bytes()
            entry = tarfile.TarInfo(str(path.relative_to(folder)))
            if _names_files(entry.name):
                content = content.replace(os.fsencode(folder), _HERE)
            entry.size, entry.mode = len(content), path.stat().st_mode & 0o777
            archive.addfile(entry, io.BytesIO(content))
    return target.getvalue()


def unpack(descriptor: int, folder: str | Path) -> None:
    """Put packed caches into a folder, as far as there is room; the descriptor's position is left alone, since others share it."""
    content = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    with contextlib.suppress(OSError, tarfile.TarError), tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for entry in archive:
            archive.extract(entry, folder, filter="data")
            if _names_files(entry.name):
                path = Path(folder, entry.name)
                path.write_bytes(path.read_bytes().replace(_HERE, os.fsencode(folder)))


def sealed(content: bytes) -> int:
    """A descriptor of a file in memory that nobody can change."""
    descriptor = os.memfd_create("provisions", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    return descriptor


def _names_files(name: str) -> bool:
    """Whether a file of a cache holds the paths of others."""
    return PurePosixPath(name).name.startswith("__grp__")
