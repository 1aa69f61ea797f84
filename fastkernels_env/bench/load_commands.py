"""Commands of ``fastkernels-env bench`` that judge many submissions at once. Whatever needs torch or ray is imported inside them."""

from __future__ import annotations

import enum
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .._arguments import check_log, check_task, default_tasks, load, resolve_device
from .._terminal import ACCEPTED, FAULT, OTHER, UNUSABLE, Problem, tell, write

if TYPE_CHECKING:
    from ..types import Evaluation


class Effort(enum.StrEnum):
    """How much an evaluation does."""

    FULL = "full"
    QUICK = "quick"


DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda")]
EffortOption = Annotated[Effort, typer.Option(help="How much every evaluation does.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TasksOption = Annotated[list[str] | None, typer.Option("--task", help="Only these tasks; without it, all of one rank.")]
AllTasksOption = Annotated[
    list[str] | None, typer.Option("--task", help="Only these tasks; without it, all for whose ranks this host has devices.")
]
FilesOption = Annotated[list[str] | None, typer.Option("--file", help="Only seeds in files of this name, such as triton.py.")]


def throughput(
    count: Annotated[int, typer.Option(min=1, help="Submissions.")] = 200,
    device: DeviceOption = "auto",
    effort: EffortOption = Effort.QUICK,
    judges: Annotated[int | None, typer.Option(help="Processes that judge; as many as cores and memory allow without it.")] = None,
    usual: Annotated[int, typer.Option(min=0, help="How many of them go through a process-per-evaluation loop too.")] = 20,
    alone: Annotated[int, typer.Option(min=0, help="How often every seed is judged alone, to see whether load distorts timing.")] = 3,
    within: Annotated[float | None, typer.Option(min=1, help="Seconds after which the batch ends, whatever is still open.")] = None,
    tasks: TasksOption = None,
    files: FilesOption = None,
    as_json: JsonOption = False,
) -> int:
    """Judge many distinct submissions at once and print evaluations per minute; exit status 1 if one was not accepted."""
    kind = resolve_device(device)
    from msgspec import to_builtins

    from .throughput import lines, run_throughput

    chosen_tasks, chosen = _seeds(kind, tasks, files)
    wide = [name for name in tasks or [] if load(name).ranks > 1]
    if usual and wide:
        raise Problem(f"expected tasks of one rank for the usual loop, got {', '.join(wide)}; leave it out with --usual 0")
    try:
        result = run_throughput(kind, chosen_tasks, chosen, count, effort.value, judges or "auto", usual, alone, tell, within)
    except RuntimeError as error:
        raise Problem(str(error)) from error
    write(json.dumps(to_builtins(result), indent=1) + "\n" if as_json else "".join(f"{line}\n" for line in lines(result)))
    return ACCEPTED if set(result.outcomes) == {"accepted"} else OTHER


def scaling(
    count: Annotated[int, typer.Option(min=1, help="Submissions for every actor.")] = 100,
    device: DeviceOption = "auto",
    effort: EffortOption = Effort.QUICK,
    judges: Annotated[int, typer.Option(min=1, help="Processes that judge, of every actor.")] = 1,
    actors: Annotated[list[int] | None, typer.Option("--actors", min=1, help="Actors of a cluster; may be given several times.")] = None,
    tasks: TasksOption = None,
    files: FilesOption = None,
    as_json: JsonOption = False,
) -> int:
    """Judge batches on Ray clusters of different size on this host, 1 and 2 actors by default; exit status 1 if one was not accepted."""
    kind = resolve_device(device)
    from msgspec import to_builtins

    from .scaling import lines, run_scaling

    chosen_tasks, chosen = _seeds(kind, tasks, files)
    try:
        result = run_scaling(kind, chosen_tasks, chosen, count, effort.value, judges, actors or [1, 2], tell)
    except (ValueError, TimeoutError) as error:
        raise Problem(str(error)) from error
    write(json.dumps(to_builtins(result), indent=1) + "\n" if as_json else "".join(f"{line}\n" for line in lines(result)))
    return ACCEPTED if all(set(run.outcomes) == {"accepted"} for run in result.runs) else OTHER


def chaos(
    count: Annotated[int, typer.Option(min=1, help="Replies.")] = 300,
    nodes: Annotated[int, typer.Option(min=1, help="Nodes of the cluster, all on this machine.")] = 2,
    every: Annotated[float, typer.Option(min=0.1, help="Mean seconds from one kill to the next.")] = 15.0,
    seed: Annotated[int, typer.Option(help="Of what is killed, and when.")] = 0,
    as_json: JsonOption = False,
) -> int:
    """Judge a batch while judges, actors and nodes are killed; exit status 1 if a verdict is lost, doubled or not the right one."""
    from msgspec import to_builtins

    from .chaos import run_chaos

    result = run_chaos(count, nodes, every, seed, tell)
    if as_json:
        write(json.dumps(to_builtins(result), indent=1) + "\n")
    else:
        figures = {**to_builtins(result), "unexpected": listed(result.unexpected) or 0, "killed": listed(result.killed)}
        write("".join(f"{name}: {value}\n" for name, value in figures.items()))
    return ACCEPTED if result.good else OTHER


def contexts(
    queues: Annotated[list[int] | None, typer.Option(min=1, help="Hardware queues of a context; 8, 4 and 1 without it.")] = None,
    idle: Annotated[list[int] | None, typer.Option(min=0, help="Contexts beside it; 0 and 24 without it.")] = None,
    at_once: Annotated[int, typer.Option(min=1, help="Contexts that are made at the same time.")] = 8,
    as_json: JsonOption = False,
) -> int:
    """Time how long CUDA contexts take, which the driver makes one at a time: what many judges on one GPU wait for."""
    from ..device import cuda_present

    if not cuda_present():
        raise Problem("expected a CUDA device, found none; run this on a GPU host")
    from msgspec import to_builtins

    from .contexts import lines, run_contexts

    try:
        found = run_contexts(queues or [8, 4, 1], idle or [0, 24], at_once, tell)
    except RuntimeError as error:
        raise Problem(str(error)) from error
    write(json.dumps(to_builtins(found), indent=1) + "\n" if as_json else "".join(f"{line}\n" for line in lines(found)))
    return ACCEPTED


def baselines(
    out: Annotated[Path, typer.Option(help="Log to append to; seeds that it holds as accepted are not judged again.")],
    device: DeviceOption = "auto",
    effort: EffortOption = Effort.FULL,
    tasks: AllTasksOption = None,
    files: FilesOption = None,
    render: Annotated[bool, typer.Option("--render", help="Judge nothing: print what the log holds, from whatever device.")] = False,
) -> int:
    """Time every baseline of every task beside one seed and print a page of Markdown; exit status 1 if a seed was not accepted."""
    for name in tasks or ():
        check_task(name)
    from ..log import LogError
    from .baselines import latest, page

    if render and not out.exists():
        raise Problem(f"expected a log to print, got {str(out)!r}, which does not exist")
    try:
        records = latest(out, tasks or ()) if render else _timed(device, tasks, files, effort, out)
    except LogError as error:  # of a record that was judged and could not be appended, or of what the user named
        raise Problem(str(error), UNUSABLE if error.evaluation is None else FAULT) from error
    write("".join(f"{line}\n" for line in page(records)))
    return ACCEPTED if records and all(record.outcome.value == "accepted" for record in records) else OTHER


def _timed(device: str, tasks: list[str] | None, files: list[str] | None, effort: Effort, out: Path) -> list[Evaluation]:
    """The records of the baselines' command."""
    kind = resolve_device(device)
    names = tasks or default_tasks(kind)
    check_files(kind, names, files or ())
    check_log(out)
    from .baselines import brief, run_baselines

    return run_baselines(kind, names, files or ["triton.py", "cpu.cpp"], effort.value, out, lambda record: tell(brief(record)))


def check_files(kind: str, tasks: Sequence[str], files: Sequence[str]) -> None:
    """Whether every file name is that of a seed which one of the tasks has for this kind of device."""
    from .alarms import seeds_on

    known = {file for _, file in seeds_on(kind, tasks)}
    if unknown := [file for file in files if file not in known]:
        raise Problem(f"expected a seed's file name, one of {', '.join(sorted(known))}, got {unknown[0]!r}")


def _seeds(kind: str, tasks: list[str] | None, files: list[str] | None) -> tuple[list[str], list[str]]:
    """Tasks, those of one rank if none are named, and the seeds' files."""
    for name in tasks or []:
        check_task(name)
    known = tasks or [name for name in default_tasks(kind) if load(name).ranks == 1]
    return known, files or (["triton.py"] if kind == "cuda" else ["cpu.cpp"])


def listed(figures: dict[str, int]) -> str:
    """Figures by name, for a reader."""
    return ", ".join(f"{name.replace('_', ' ')} {figure}" for name, figure in figures.items())
