"""Prompts as rows, for trainers that begin with a data set: one row per public workload of a task, train and held out apart."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from ._hidden import shape_key
from .registry import load_task, task_folders
from .task import TaskError

if TYPE_CHECKING:
    from .task import Task

SPLITS = ("train", "heldout", "all")
Share = float | Collection[str]


class _Place(NamedTuple):
    """A workload of a task, and by what it is held out: ``task``, ``workload`` or nothing."""

    task: str
    workload: str
    held_out: str


def rows(
    split: str = "train",
    *,
    device: str = "auto",
    tasks: Iterable[str] | None = None,
    hold_out_tasks: Share = 0.2,
    hold_out_workloads: Share = 0.25,
) -> list[dict[str, Any]]:
    """One row per public workload: ``rms_norm[cpu-decode-16]`` is the task `rms_norm` confined to that workload.

    The prompt of a row shows, and its evaluation times, that workload alone. So nothing that a policy reads or is paid for in training
    has the shape of a held-out workload, and the sizes that verification draws avoid it. The small batches of the other checks (repeated
    calls, compile stack) may coincide with one.

    Whether a task, or a workload of the other tasks, is held out depends on a hash of its name and on the share alone: the split is the
    same everywhere and does not move when tasks are added. Workloads of equal shape are held out together, and one shape of a task that
    is not held out always stays for training.

    Args:
        split: ``train``, ``heldout``, or ``all`` for both.
        device: ``auto``, ``cpu`` or ``cuda``: whose workloads. ``cuda`` needs no GPU here.
        tasks: Names of tasks; None: every task of one process. Those of several ranks are asked for by name.
        hold_out_tasks: A share, 0 to 1, or the names of tasks to hold out with all of their workloads.
        hold_out_workloads: A share of the other tasks' workloads, or their names as in ``rms_norm[cpu-decode-16]``.

    Returns:
        Rows in the order of tasks and workloads, each with ``prompt`` (chat messages), ``prompt_text`` (the same as text), ``task`` (the
        name to evaluate a reply for), ``split``, ``held_out`` (``task``, ``workload`` or nothing), ``device`` and ``prompt_hash``.

    Raises:
        ValueError: Unknown split, or a share outside 0 to 1.
        TaskError: There is no such task or workload, or a task has none for this device.
        DeviceError: The device is unknown.
    """
    if split not in SPLITS:
        raise ValueError(f"expected split to be one of {', '.join(map(repr, SPLITS))}, got {split!r}")
    kind = _kind(device)
    places = [place for task in _tasks(tasks, kind) for place in _places(task, kind, hold_out_tasks, hold_out_workloads)]
    _check_names(hold_out_tasks, {place.task for place in places}, "hold_out_tasks")
    _check_names(hold_out_workloads, {f"{place.task}[{place.workload}]" for place in places}, "hold_out_workloads")
    wanted = {"train": (False,), "heldout": (True,), "all": (False, True)}[split]
    return [_row(place, kind) for place in places if bool(place.held_out) in wanted]


def _kind(device: str) -> str:
    from .device import resolve

    return device if device == "cuda" else resolve(device)


def _tasks(names: Iterable[str] | None, kind: str) -> list[Task]:
    if names is None:
        known = [load_task(name) for name in task_folders()]
        return [task for task in known if task.workloads(kind) and task.ranks == 1]
    if isinstance(names, str):
        raise TaskError(f"expected tasks to be a list of names, got the text {names!r}; write [{names!r}]")
    chosen = [load_task(name) for name in names]
    for task in chosen:
        task.smoke_workload(kind)  # raises if there is none
    return chosen


def _places(task: Task, kind: str, tasks: Share, workloads: Share) -> list[_Place]:
    name, public = task.folder.name, task.workloads(kind)
    if _is_held_out(name, tasks):
        return [_Place(name, workload.name, "task") for workload in public]
    held = {w.name for w in public if _is_held_out(f"{name}[{w.name}]", workloads)}
    shapes = {shape_key(task, w) for w in public if w.name in held}
    if isinstance(workloads, int | float) and len(shapes) == len({shape_key(task, w) for w in public}) and workloads < 1:
        last = max(public, key=lambda w: _draw(f"{name}[{w.name}]"))
        shapes.discard(shape_key(task, last))
    return [_Place(name, w.name, "workload" if shape_key(task, w) in shapes else "") for w in public]


def _is_held_out(name: str, share: Share) -> bool:
    return _draw(name) < share if isinstance(share, int | float) else name in share


def _draw(name: str) -> float:
    """A number in [0, 1) that looks random and is always the same for a name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def _check_names(share: Share, known: set[str], argument: str) -> None:
    if isinstance(share, int | float):
        if isinstance(share, bool) or not 0 <= share <= 1:
            raise ValueError(f"expected {argument} to be a share from 0 to 1, or names, got {share!r}")
        return
    if isinstance(share, str):
        raise ValueError(f"expected {argument} to be a share from 0 to 1, or a list of names, got the text {share!r}")
    unknown = sorted(set(share) - known)
    if unknown:
        raise TaskError(f"{argument}: there is no {unknown[0]!r} among the rows; known are: {', '.join(sorted(known))}")


def _row(place: _Place, kind: str) -> dict[str, Any]:
    from .prompt import build_prompt, prompt_hash

    name = f"{place.task}[{place.workload}]"
    text = build_prompt(load_task(name), kind)
    return {
        "prompt": [{"role": "user", "content": text}], "prompt_text": text, "task": name, "split": "heldout" if place.held_out else "train",
        "held_out": place.held_out, "device": kind, "prompt_hash": prompt_hash(text),
    }
