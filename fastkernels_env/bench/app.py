"""The command group ``fastkernels-env bench``. Whatever needs torch is imported inside the commands."""

from __future__ import annotations

import fnmatch
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .._arguments import check_log, check_task, default_tasks, load_reward, resolve_device
from .._terminal import ACCEPTED, OTHER, Problem, display, make_table, tell, write
from .load_commands import (
    AllTasksOption,
    DeviceOption,
    Effort,
    EffortOption,
    JsonOption,
    baselines,
    chaos,
    check_files,
    contexts,
    listed,
    scaling,
    throughput,
)

if TYPE_CHECKING:
    from .suite import Fixture, Suite

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Benchmarks of the judge itself.")

OutOption = Annotated[Path | None, typer.Option(help="JSONL file to append to; what it holds is not run again.")]
SuiteOption = Annotated[Path | None, typer.Option(help="Folder of the threat suite; that of this checkout without it.")]
OnlyOption = Annotated[str, typer.Option(help="Only fixtures whose name, category or task fits this pattern.")]


@app.callback()
def _group() -> None:
    """Benchmarks of the judge itself."""


@app.command()
def aa(
    out: Annotated[Path, typer.Option(help="JSONL file; runs that it holds are not repeated.")],
    device: DeviceOption = "auto",
    runs: Annotated[int, typer.Option(help="Runs per task.")] = 20,
    effort: EffortOption = Effort.FULL,
    tasks: Annotated[list[str] | None, typer.Option("--task", help="Only these tasks.")] = None,
    baselines: Annotated[list[str] | None, typer.Option("--baseline", help="task=name: skip the search for the best one.")] = None,
) -> int:
    """Submit baselines against themselves and print coverage and resolution."""
    kind = resolve_device(device)
    from .aa import run_aa

    chosen = dict(choice.split("=", 1) for choice in baselines or [])
    write(run_aa(kind, tasks or default_tasks(kind), runs, effort.value, chosen, out) + "\n")
    return ACCEPTED


@app.command()
def integrity(
    device: DeviceOption = "auto",
    only: OnlyOption = "*",
    suite: SuiteOption = None,
    seeds: Annotated[bool, typer.Option(help="Run the tasks' seeds as honest fixtures too.")] = True,
    as_json: JsonOption = False,
    out: OutOption = None,
) -> int:
    """Judge every threat and every honest twin; exit status 1 if one got another verdict than it must."""
    kind = resolve_device(device)
    threats = _suite(suite)
    chosen = _chosen(threats, kind, only, seeds)
    _check_out(out)
    from .integrity import HEADER, count, line, run_suite, summary

    rows = run_suite(kind, threats, chosen, out, lambda row: tell(" | ".join(line(row)) + ("" if row.expected else f" | {row.reason}")))
    counts = count(rows)
    if as_json:
        from msgspec import to_builtins

        write(json.dumps({**to_builtins(counts), "rows": to_builtins(rows)}, indent=1) + "\n")
    else:
        display(make_table(HEADER, [line(row) for row in rows]))
        write(summary(counts) + "\n")
    return ACCEPTED if counts.good else OTHER


@app.command()
def survival(
    count: Annotated[int, typer.Option(help="Evaluations in all.")] = 500,
    every: Annotated[int, typer.Option(help="One evaluation in so many is honest.")] = 10,
    device: DeviceOption = "auto",
    suite: SuiteOption = None,
    as_json: JsonOption = False,
    out: OutOption = None,
) -> int:
    """Judge hostile submissions in random order; exit status 1 if the judge died, refused honest work or left anything behind."""
    kind = resolve_device(device)
    threats = _suite(suite)
    _check_out(out)
    import tempfile

    from msgspec import to_builtins

    from .survival import run_survival

    with tempfile.TemporaryDirectory(prefix="survival-") as folder:
        lines = out or Path(folder) / "lines.jsonl"
        result = run_survival(kind, threats, count, max(every, 1), lines, lambda end: tell(f"{end.number} {end.fixture}: {end.outcome}"))
    if as_json:
        write(json.dumps(to_builtins(result), indent=1) + "\n")
    else:
        figures = {**to_builtins(result), "outcomes": listed(result.outcomes), "leaks": listed(result.leaks)}
        write("".join(f"{name.replace('_', ' ')}: {value}\n" for name, value in figures.items()))
    return ACCEPTED if result.good else OTHER


@app.command()
def delegation(
    device: DeviceOption = "auto",
    tasks: Annotated[list[str] | None, typer.Option("--task", help="Only these tasks.")] = None,
    effort: EffortOption = Effort.FULL,
    as_json: JsonOption = False,
) -> int:
    """Submit the baselines' own sources: exit status 1 if one is faster than itself."""
    for name in tasks or ():
        check_task(name)
    kind = resolve_device(device)
    from .delegation import HEADER, line, run_delegation

    rows = run_delegation(kind, tasks or default_tasks(kind), effort.value, lambda row: tell(" | ".join(line(row))))
    if as_json:
        from msgspec import to_builtins

        write(json.dumps(to_builtins(rows), indent=1) + "\n")
    else:
        display(make_table(HEADER, [line(row) for row in rows]))
    return ACCEPTED if all(row.good for row in rows) else OTHER


@app.command()
def alarms(
    out: Annotated[Path, typer.Option(help="JSONL file; evaluations that it holds are not repeated.")],
    device: DeviceOption = "auto",
    count: Annotated[int, typer.Option(min=1, help="Evaluations of each seed.")] = 25,
    effort: EffortOption = Effort.QUICK,
    tasks: AllTasksOption = None,
    files: Annotated[list[str] | None, typer.Option("--file", help="Only seeds in files of this name, such as cpu.cpp.")] = None,
    as_json: JsonOption = False,
) -> int:
    """Judge every seed again and again on fresh inputs: exit status 1 if one is ever refused."""
    for name in tasks or ():
        check_task(name)
    kind = resolve_device(device)
    from .alarms import HEADER, Alarm, run_alarms, table

    names = tasks or default_tasks(kind)
    check_files(kind, names, files or ())
    _check_out(out)

    def say(row: Alarm) -> None:
        tell(f"{row.task} {row.seed_file} {row.number}: {row.outcome}")

    rows = run_alarms(kind, names, count, effort.value, out, say, files or ())
    if as_json:
        from msgspec import to_builtins

        write(json.dumps(to_builtins(rows), indent=1) + "\n")
    else:
        display(make_table(HEADER, table(rows)))
    return ACCEPTED if all(row.right for row in rows) else OTHER


@app.command()
def threats(suite: SuiteOption = None) -> int:
    """Print what the threat suite tries, as a page of Markdown."""
    found = _suite(suite)
    from .page import render

    write(render(found))
    return ACCEPTED


@app.command("rescore")
def rescoring(
    log: Annotated[Path, typer.Argument(help="Log whose records are repeated.", metavar="LOG")],
    records: Annotated[int, typer.Option(min=1, help="Records to score.")] = 10_000,
    reward: Annotated[str, typer.Option(help="Reward preset.")] = "production",
    as_json: JsonOption = False,
) -> int:
    """Measure how long it takes to score a log again."""
    load_reward(reward)
    from msgspec import to_builtins

    from ..log import LogError
    from .rescoring import measure_rescoring

    try:
        result = to_builtins(measure_rescoring(log, records, reward))
    except (LogError, ValueError) as error:
        raise Problem(str(error)) from error
    write(json.dumps(result) + "\n" if as_json else "".join(f"{name.replace('_', ' ')}: {value:,.4g}\n" for name, value in result.items()))
    return ACCEPTED


for _command in (throughput, scaling, chaos, contexts, baselines):
    app.command()(_command)


def _suite(folder: Path | None) -> Suite:
    from .suite import SuiteError, find_suite

    try:
        return find_suite(folder)
    except SuiteError as error:
        raise Problem(str(error)) from error


def _chosen(suite: Suite, kind: str, pattern: str, seeds: bool) -> list[Fixture]:
    from .suite import seed_fixtures

    known = suite.on(kind)
    if seeds:
        fitting = default_tasks(kind)
        known = known + [fixture for fixture in seed_fixtures(kind) if fixture.task in fitting]
    chosen = [f for f in known if any(fnmatch.fnmatch(word, pattern) for word in (f.name, f.category, f.task))]
    if not chosen:
        raise Problem(f"no fixture for device {kind!r} fits the pattern {pattern!r}; the command `bench threats` lists them")
    return chosen


def _check_out(out: Path | None) -> None:
    if out is not None:
        check_log(out)
