"""What was being judged when the judge's own process was killed: a folder beside the log, one file per evaluation under way.

A file is held under ``flock`` by the process that judges, and is gone when its evaluation is in the log. So a file that nobody holds
belongs to an evaluation whose process was killed: nothing is lost, the next evaluator with the same log records it as a fault.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from .types import Context

_TRIES = 100


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """An evaluation under way: the arguments of `Evaluator.evaluate`, and how often a process was killed over the same reply."""

    task: str
    text: str
    seed: int
    effort: str
    context: Context
    prompt_hash: str
    deaths: int = 0

    @property
    def key(self) -> str:
        """The same for every evaluation of this reply on this task."""
        return hashlib.sha256(repr((self.task, self.text)).encode("utf-8", "backslashreplace")).hexdigest()[:24]


class Journal:
    """The evaluations under way of all evaluators that share a log.

    Args:
        log: Path of the log. A log that is a device or a pipe has no journal.
    """

    def __init__(self, log: Path) -> None:
        self._folder = log.with_name(log.name + ".pending")
        self._active = not log.exists() or log.is_file()

    @contextlib.contextmanager
    def hold(self, entry: Entry) -> Iterator[None]:
        """Keep an entry for as long as the block runs, and forget earlier deaths over it if it ends."""
        memory = self._folder / f"{entry.key}.lost"
        path, descriptor = self._write(msgspec.structs.replace(entry, deaths=_read_deaths(memory)))
        try:
            yield
        finally:
            if path is not None:
                path.unlink(missing_ok=True)
                os.close(descriptor)
                memory.unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    self._folder.rmdir()

    def _write(self, entry: Entry) -> tuple[Path | None, int]:
        """The entry's file, locked, and its descriptor; no file where none can be written (the log then says why)."""
        if not self._active:
            return None, -1
        with contextlib.suppress(OSError), contextlib.ExitStack() as undo:
            descriptor, name = self._open()
            undo.callback(Path(name).unlink, missing_ok=True)
            undo.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            content = msgspec.json.encode(entry)
            if os.write(descriptor, content) < len(content):
                raise OSError(errno.ENOSPC, "no room for the whole entry")
            path = Path(name).with_name(f"{Path(name).name[1:]}.json")
            os.replace(name, path)  # only now can others see it, and it is locked
            undo.pop_all()
            return path, descriptor
        return None, -1

    def _open(self) -> tuple[int, str]:
        """A new file in the folder, which whoever ended the last evaluation may be removing."""
        for _ in range(_TRIES):
            with contextlib.suppress(FileNotFoundError, FileExistsError):  # the latter: it went while it was looked at
                self._folder.mkdir(parents=True, exist_ok=True)
                return tempfile.mkstemp(prefix=".", dir=self._folder)
        raise FileNotFoundError(self._folder)

    def _entries(self) -> list[Path]:
        with contextlib.suppress(FileNotFoundError):  # it is removed with its last entry
            return sorted(self._folder.glob("*.json"))
        return []

    def take_lost(self) -> list[Entry]:
        """Entries whose process is gone, with this death counted. Each is given out once, to one of the evaluators that ask."""
        found = []
        for path in self._entries() if self._active else []:
            with contextlib.suppress(OSError, msgspec.DecodeError), path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not path.exists():
                    continue  # its evaluation ended, or another evaluator was quicker
                entry = msgspec.json.decode(file.read(), type=Entry)
                entry = msgspec.structs.replace(entry, deaths=entry.deaths + 1)
                (self._folder / f"{entry.key}.lost").write_text(str(entry.deaths))
                path.unlink()
                found.append(entry)
        return found


def _read_deaths(path: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text())
    return 0
