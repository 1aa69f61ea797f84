"""Tasks that hosts do not have travel with a reply: their folders, packed."""

from __future__ import annotations

import hashlib
import io
import tarfile
import tempfile
import threading
from pathlib import Path

from ..registry import register_task, split_name

_lock = threading.Lock()
_unpacked: dict[str, str] = {}
"""Digest of the archive from which this process has a task, by the task's name."""


def pack(folder: Path) -> bytes:
    """An archive of a task's folder; the same for the same files."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as files:
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
            content = path.read_bytes()
            member = tarfile.TarInfo(str(path.relative_to(folder)))
            member.size = len(content)
            files.addfile(member, io.BytesIO(content))
    return target.getvalue()


def unpack(name: str, archive: bytes) -> None:
    """Register a task in this process, unless it is there already; nothing if the archive is empty. Thread-safe."""
    if not archive:
        return
    name, _ = split_name(name)
    digest = hashlib.sha256(archive).hexdigest()
    with _lock:
        if _unpacked.get(name) == digest:
            return
        folder = Path(tempfile.mkdtemp(prefix="fastkernels-task-")) / name
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
        register_task(folder)
        _unpacked[name] = digest
