"""The command line's arguments: what they name is found and read, or one sentence says why not."""

from __future__ import annotations

import difflib
import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ._terminal import FAULT, NAME, Problem, tell

if TYPE_CHECKING:
    from .reward import Preset
    from .task import Task

_MOST_BYTES = 64 << 20
"""Longest file that is read: far more than is judged, and an end to devices that have none."""


def check_task(name: str, *, confined: bool = False) -> None:
    """Whether there is such a task, without importing it. `confined`: the name may confine it to some of its workloads."""
    from .registry import split_name, task_folders
    from .statements import read_workloads

    known = task_folders()
    own, only = split_name(name) if confined else (name, ())
    if own not in known:
        _unknown(f"there is no task {own!r}", own, list(known))
    if only and not only[0].startswith("@"):
        public = [workload.name for workload in read_workloads(known[own] / "workloads.jsonl", own) if not workload.overflow]
        for workload in only:
            if workload not in public:
                _unknown(f"task {own!r} has no workload {workload!r}", workload, public)


def _unknown(what: str, name: str, known: list[str]) -> NoReturn:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known are: {', '.join(known)}"
    raise Problem(f"{what}; {hint}")


def load(name: str) -> Task:
    """A task; one that cannot be used is a fault."""
    from .registry import load_task
    from .task import TaskError

    try:
        return load_task(name)
    except TaskError as error:
        raise Problem(str(error), FAULT) from error


def name_with_workloads(task: str, file: Path) -> str:
    """A task's name with the workloads of a file."""
    from .registry import with_workloads
    from .task import TaskError

    try:
        return with_workloads(task, file)
    except TaskError as error:
        raise Problem(str(error)) from error


def default_tasks(kind: str) -> list[str]:
    """Names of all tasks for whose ranks this host has devices of a kind; the others are named on standard error."""
    from .device import most_ranks
    from .registry import task_folders

    most = most_ranks(kind)
    large = [name for name in task_folders() if load(name).ranks > most]
    if large:
        unit = "GPUs" if kind == "cuda" else "cores"
        tell(f"{NAME}: left out, since they take more {unit} than this host has ({most}): {', '.join(large)}")
    return [name for name in task_folders() if name not in large]


def resolve_device(device: str) -> str:
    """The device kind that a choice means here."""
    from .device import DeviceError, resolve

    try:
        return resolve(device)
    except DeviceError as error:
        raise Problem(str(error)) from error


def load_reward(name: str) -> Preset:
    """A reward preset by name or path."""
    from .reward import PresetError, load_preset

    try:
        return load_preset(name)
    except PresetError as error:
        raise Problem(str(error)) from error


def read_text(name: str) -> str:
    """The text of a file, or of standard input."""
    what, wanted = "standard input" if name == "-" else name, "name a file with a reply or source code, or - for standard input"
    try:
        if name == "-":
            data = _read_standard_input()
        else:
            with open(name, "rb") as file:
                data = file.read(_MOST_BYTES + 1)
    except IsADirectoryError as error:
        raise Problem(f"{name} is a folder; {wanted}") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise Problem(f"{what} cannot be read ({reason}); {wanted}") from error
    if len(data) > _MOST_BYTES:
        raise Problem(f"{what} has more than {_MOST_BYTES >> 20} MiB; a submission is source code, of at most 65,536 characters")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Problem(f"{what} is not UTF-8 text (byte {error.start}); a submission is source code, not a binary") from error


def _read_standard_input() -> bytes:
    if sys.stdin is None:
        raise Problem("standard input is closed; name a file instead of -")
    if sys.stdin.isatty():
        tell(f"{NAME}: type or paste the submission, then press Ctrl-D")
    return sys.stdin.buffer.read(_MOST_BYTES + 1)


def check_log(path: Path) -> None:
    """Whether a log can be appended to, before an evaluation is spent on it."""
    from .log import COMPRESSED

    if path.suffix in COMPRESSED:
        raise Problem(f"{path}: records are appended to plain files only; name one without {path.suffix} and compress it afterwards")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or stat.S_ISREG(path.stat().st_mode):
            os.close(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666))
        elif path.is_dir():
            raise IsADirectoryError(0, "it is a folder")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise Problem(f"the log {path} cannot be written ({reason}); name another file") from error
