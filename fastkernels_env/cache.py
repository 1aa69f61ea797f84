"""What is kept on a host between runs: measured peaks, noise, compile caches of baselines. Once per host and version."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

import msgspec

from .types import DeviceInfo, Peaks


class HostRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Facts about one device of one host.

    Attributes:
        device: Name of the device that they were measured on.
        peaks: Measured rates.
        warmed: Tasks whose baselines were built and tried, with the status of each baseline.
    """

    device: str
    peaks: Peaks
    warmed: dict[str, dict[str, str]] = {}


def cache_root() -> Path:
    """``FASTKERNELS_CACHE``, else ``$XDG_CACHE_HOME/fastkernels_env``, else ``~/.cache/fastkernels_env``."""
    if explicit := os.environ.get("FASTKERNELS_CACHE"):
        return Path(explicit)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fastkernels_env"


class HostCache:
    """The cache of one device of this host, under a key of device name and library versions.

    Args:
        info: The device.
        versions: Library versions; another version is another key.
    """

    def __init__(self, info: DeviceInfo, versions: dict[str, str]) -> None:
        key = hashlib.sha256(repr((info.kind, info.name, info.cores, sorted(versions.items()))).encode()).hexdigest()[:12]
        self.folder = cache_root() / f"{info.kind}-{key}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            self.folder = Path(tempfile.mkdtemp(prefix="fastkernels-cache-"))
        self._info = info

    def load(self) -> HostRecord | None:
        """The record, or None if there is none (or it cannot be read)."""
        with contextlib.suppress(OSError, msgspec.DecodeError):
            return msgspec.json.decode((self.folder / "host.json").read_bytes(), type=HostRecord)
        return None

    def save(self, record: HostRecord) -> None:
        """Write the record, atomically."""
        write_atomically(self.folder / "host.json", msgspec.json.encode(record))


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is whole or as it was, if there is room for it."""
    with contextlib.suppress(OSError):
        handle, name = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.replace(name, path)
        except OSError:
            os.unlink(name)
            raise
