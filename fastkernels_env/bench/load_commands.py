"""Commands of ``fastkernels-env bench`` that judge many submissions at once. Whatever needs torch or ray is imported inside them."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from .._arguments import check_task, default_tasks, load, resolve_device
from .._terminal import ACCEPTED, OTHER, Problem, tell, write

DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda")]
EffortOption = Annotated[str, typer.Option(help="full or quick")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TasksOption = Annotated[list[str] | None, typer.Option("--task", help="Only these tasks; without it, all of one rank.")]
FilesOption = Annotated[list[str] | None, typer.Option("--file", help="Only seeds in files of this name, such as triton.py.")]


def throughput(
    count: Annotated[int, typer.Option(min=1, help="Submissions.")] = 200,
    device: DeviceOption = "auto",
    effort: EffortOption = "quick",
    judges: Annotated[int | None, typer.Option(help="Processes that judge; as many as cores and memory allow without it.")] = None,
    usual: Annotated[int, typer.Option(min=0, help="How many of them go through a process-per-evaluation loop too.")] = 20,
    alone: Annotated[int, typer.Option(min=0, help="How often every seed is judged alone, to see whether load distorts timing.")] = 3,
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
    result = run_throughput(kind, chosen_tasks, chosen, count, effort, judges or "auto", usual, alone, tell)
    write(json.dumps(to_builtins(result), indent=1) + "\n" if as_json else "".join(f"{line}\n" for line in lines(result)))
    return ACCEPTED if set(result.outcomes) == {"accepted"} else OTHER


def scaling(
    count: Annotated[int, typer.Option(min=1, help="Submissions for every actor.")] = 100,
    device: DeviceOption = "auto",
    effort: EffortOption = "quick",
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
        result = run_scaling(kind, chosen_tasks, chosen, count, effort, judges, actors or [1, 2], tell)
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


def _seeds(kind: str, tasks: list[str] | None, files: list[str] | None) -> tuple[list[str], list[str]]:
    """Tasks, those of one rank if none are named, and the seeds' files."""
    for name in tasks or []:
        check_task(name)
    known = tasks or [name for name in default_tasks(kind) if load(name).ranks == 1]
    return known, files or (["triton.py"] if kind == "cuda" else ["cpu.cpp"])


def listed(figures: dict[str, int]) -> str:
    """Figures by name, for a reader."""
    return ", ".join(f"{name.replace('_', ' ')} {figure}" for name, figure in figures.items())
