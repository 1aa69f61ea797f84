"""A task with workloads of the user's own in place of its public ones: ``rms_norm[@/path/rows.jsonl#1f2e3d4c]``.

The name holds all that another process of this host needs, and a digest, so that one name always means the same shapes.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ._hidden import ITEM_BYTES
from .signature import TaskError, dtype_of, shape_of
from .statements import Workload, read_workloads

if TYPE_CHECKING:
    from .task import Task

MARK = "@"
"""What a confinement begins with that names a file."""
_DIGITS = 12


def name_given(task: str, file: str | Path) -> str:
    """The name of a task whose public workloads are those of a file.

    Raises:
        TaskError: The file cannot be read, or the task is confined already.
    """
    if task.endswith("]"):
        raise TaskError(f"{task!r} has workloads of its own choice; name the whole task beside a file of workloads")
    path = Path(file).resolve()
    return f"{task}[{MARK}{path}#{_digest(path)}]"


def read_given(task: Task, reference: str) -> tuple[Workload, ...]:
    """The workloads of a file that are for a task: those that name it, and those that name none.

    Args:
        task: The whole task.
        reference: What stands in the brackets, ``@/path/rows.jsonl`` and perhaps ``#`` and a digest.

    Raises:
        TaskError: The file cannot be read, has changed, or a row does not fit the task; the message says which and why.
    """
    path, digest = _split(reference.removeprefix(MARK))
    if digest and digest != _digest(path):
        raise TaskError(f"{path} has changed since {task.folder.name!r} was named with it; name it again")
    found = [row for row in read_workloads(path, task.folder.name) if row.task in ("", task.folder.name)]
    if not found:
        raise TaskError(f"{path} holds no workload for task {task.folder.name!r}; capture one, or leave --workloads out")
    _check_names(path, found)
    for row in found:
        _check(task, path, row)
    return tuple(found)


def _split(reference: str) -> tuple[Path, str]:
    """A path and a digest; no digest where the end is not one."""
    name, mark, digest = reference.rpartition("#")
    if mark and re.fullmatch(f"[0-9a-f]{{{_DIGITS}}}", digest):
        return Path(name), digest
    return Path(reference), ""


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:_DIGITS]
    except OSError as error:
        raise TaskError(f"the workloads {path} cannot be read ({error.strerror}); name a JSONL file of workloads") from error


def _check_names(path: Path, found: Sequence[Workload]) -> None:
    seen: set[tuple[str, str]] = set()
    for row in found:
        if (row.device, row.name) in seen:
            raise TaskError(f"{path}: two workloads for {row.device} have the name {row.name!r}; give each its own")
        seen.add((row.device, row.name))


def _check(task: Task, path: Path, row: Workload) -> None:
    """Whether a row has the sizes of the task's own."""
    own = read_workloads(task.folder / "workloads.jsonl", task.folder.name)
    where = f"{path}: workload {row.name!r} of task {task.folder.name!r}"
    strides = {arg.row_stride for arg in task.signature if arg.row_stride}  # without them rows are contiguous
    needed = set.intersection(*(set(workload.sizes) for workload in own)) - strides
    known = set.union(*(set(workload.sizes) for workload in own)) | strides
    if missing := sorted(needed - set(row.sizes)):
        raise TaskError(f"{where} lacks the size {missing[0]!r}; expected {', '.join(sorted(needed))}")
    if unknown := sorted(set(row.sizes) - known):
        raise TaskError(f"{where} has a size {unknown[0]!r} that the task does not have; known are {', '.join(sorted(known))}")
    if row.overflow or row.count < 1:
        raise TaskError(f"{where}: expected a count of at least 1, and no overflow shape; the task brings those itself")
    if min(row.sizes.values()) < 0 or row.sizes.get(task.batch, 1) < 1:
        raise TaskError(f"{where}: expected sizes of at least 0, and {task.batch} of at least 1, got {row.sizes}")
    if row.device not in task.ragged:
        raise TaskError(f"{where} is for {row.device!r}; the task has {' and '.join(sorted(task.ragged))}")
    dtypes = {workload.dtype for workload in own} | set(task.numerics.gates)  # its own: those of indices have no bounds
    if row.dtype not in dtypes:
        raise TaskError(f"{where} has dtype {row.dtype!r}; the task knows {', '.join(sorted(dtypes))}")
    for name in sorted(strides & set(row.sizes)):
        _check_stride(task, where, row, name)


def _check_stride(task: Task, where: str, row: Workload, name: str) -> None:
    """Whether rows lie far enough apart, and no closer than what the task promises of their starts."""
    strided, complete = [arg for arg in task.signature if arg.row_stride == name], task.complete(row.sizes)
    width = max(math.prod(shape_of(arg, complete)[1:]) for arg in strided)
    unit = max(task.alignment // min(ITEM_BYTES.get(dtype_of(arg, row), 1) for arg in strided), 1)
    if row.sizes[name] < width or row.sizes[name] % unit:
        raise TaskError(f"{where}: expected {name} of at least {width} and a multiple of {unit}, got {row.sizes[name]}")
