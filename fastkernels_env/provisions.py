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
import tempfile
from pathlib import Path, PurePosixPath

CACHES = {"TRITON_CACHE_DIR": "triton", "TORCHINDUCTOR_CACHE_DIR": "inductor"}
"""Folders of a worker's caches, by the variable that names each."""
_HERE, _NAMES = b"@folder@", "FASTKERNELS.folder"
"""What stands for a worker's folder in packed files, and the header of those in which it does."""
_LONG = 80
"""Characters of a worker's folder, where that is possible: compiled graphs name it, in formats that say how long every string is."""
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def new_folder() -> Path:
    """A new folder for a worker, whose caches can be packed and unpacked."""
    prefix = "fastkernels-"
    missing = _LONG - len(os.path.join(tempfile.gettempdir(), f"{prefix}12345678"))
    return Path(tempfile.mkdtemp(prefix=prefix + "0" * max(missing, 0)))


def pack(folder: str | Path) -> bytes:
    """The caches in a worker's folder as a tar archive.

    What names the folder and cannot be rewritten, since the folder's path has not the usual length, is left out.
    """
    target, here = io.BytesIO(), os.fsencode(folder)
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(path for name in CACHES.values() for path in Path(folder, name).rglob("*") if path.is_file()):
            content = path.read_bytes()
            entry = tarfile.TarInfo(str(path.relative_to(folder)))
            if here in content:
                if not (place := _place(entry.name, here)):
                    continue
                content, entry.pax_headers = content.replace(here, place), {_NAMES: "it"}
            entry.size, entry.mode = len(content), path.stat().st_mode & 0o777
            archive.addfile(entry, io.BytesIO(content))
    return target.getvalue()


def unpack(descriptor: int, folder: str | Path) -> None:
    """Put packed caches into a folder, as far as there is room; the descriptor's position is left alone, since others share it."""
    content, here = os.pread(descriptor, os.fstat(descriptor).st_size, 0), os.fsencode(folder)
    with contextlib.suppress(OSError, tarfile.TarError), tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for entry in archive:
            archive.extract(entry, folder, filter="data")
            if _NAMES in entry.pax_headers:
                path = Path(folder, entry.name)
                if place := _place(entry.name, here):
                    path.write_bytes(path.read_bytes().replace(place, here))
                else:
                    path.unlink()


def _place(name: str, here: bytes) -> bytes:
    """What stands for the folder in a packed file; empty if nothing may: only in Triton's lists of files may it be of any length."""
    if PurePosixPath(name).name.startswith("__grp__"):
        return _HERE
    return _HERE.ljust(_LONG, b"@") if len(here) == _LONG else b""


def sealed(content: bytes) -> int:
    """A descriptor of a file in memory that nobody can change."""
    descriptor = os.memfd_create("provisions", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    return descriptor

