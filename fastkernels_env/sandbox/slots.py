"""One user id per confined tree, shared with no other tree on this host."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import NamedTuple

DEFAULT_BASE = 52000
SLOTS = 1000
_FOLDERS = ("/run", "/var/run", "/var/tmp")


class Slot(NamedTuple):
    """A user id that is taken; group ids are the same number. `lock` is the descriptor that holds it."""

    uid: int
    lock: int

    def release(self) -> None:
        """Let another tree have it. No process may run under it any more."""
        os.close(self.lock)


def base_uid() -> int:
    """The first id: ``FASTKERNELS_UID_BASE``, else 52000.

    Raises:
        ValueError: It is no number.
    """
    text = os.environ.get("FASTKERNELS_UID_BASE", str(DEFAULT_BASE))
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"FASTKERNELS_UID_BASE: expected a user id above 0, got {text!r}")
    return int(text)


def take_slot() -> Slot:
    """Take the first id that no tree on this host has.

    Raises:
        OSError: None is free, or this process may not keep locks or become another user.
    """
    base = base_uid()
    if os.geteuid() != 0:
        raise PermissionError("only root can run it as another user")
    if not _mapped(base + SLOTS - 1):
        raise PermissionError(f"the user ids from {base} on do not exist in this user namespace; set FASTKERNELS_UID_BASE")
    folder = _lock_folder()
    for uid in range(base, base + SLOTS):
        lock = os.open(folder / str(uid), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return Slot(uid, lock)
        except BlockingIOError:
            os.close(lock)
        except BaseException:
            os.close(lock)
            raise
    raise OSError(f"all {SLOTS} user ids from {base} on are taken")


def _mapped(uid: int) -> bool:
    """Whether an id exists in this user namespace."""
    lines = (line.split() for line in Path("/proc/self/uid_map").read_text().splitlines())
    return any(int(start) <= uid < int(start) + int(count) for start, _, count in lines)


def _lock_folder() -> Path:
    """A folder that only root can write to."""
    for place in _FOLDERS:
        folder = Path(place, "fastkernels_env")
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            facts = folder.lstat()
        except OSError:
            continue
        if facts.st_uid == 0 and not facts.st_mode & 0o022 and folder.is_dir() and not folder.is_symlink():
            return folder
    raise OSError(f"there is no folder for locks in {', '.join(_FOLDERS)}")
