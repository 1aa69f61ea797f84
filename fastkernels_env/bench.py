"""Benchmarks of the judge itself. ``python -m fastkernels_env.bench aa`` measures how far its speedups can be trusted.

A/A: a task's best baseline is submitted against itself, in a fresh worker every time, through the profile stage alone. The true speedup
is 1.0, so the share of intervals that contain 1.0 is the coverage, and their half-width is the resolution. Every run is one line of a
JSONL file; a second call goes on where the first one stopped.
"""

from __future__ import annotations

import datetime
import random
import secrets
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from .device import resolve
from .judge.baselines import LOAD_SECONDS, load_request
from .judge.effort import get_effort
from .judge.judge import Judge
from .judge.score import speedup
from .judge.timing import Entrant, measure
from .registry import load_task, task_folders
from .task import Task
from .versions import versions

app = typer.Typer(add_completion=False, help="Benchmarks of the judge itself.", no_args_is_help=True)


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One A/A run."""

    task: str
    number: int
    device: str
    baseline: str
    estimate: float
    low: float
    high: float
    shortest_us: float
    """Time per call of the shortest workload."""
    created: str
    versions: dict[str, str]

    @property
    def covers(self) -> bool:
        """Whether the interval contains the truth."""
        return self.low <= 1.0 <= self.high

    @property
    def half_width(self) -> float:
        """Half the interval, relative to the estimate."""
        return (self.high - self.low) / (2 * self.estimate)


@app.callback()
def _group() -> None:
    """Benchmarks of the judge itself."""


@app.command()
def aa(
    out: Annotated[Path, typer.Option(help="JSONL file; runs that it holds are not repeated.")],
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    runs: Annotated[int, typer.Option(help="Runs per task.")] = 20,
    effort: Annotated[str, typer.Option(help="full or quick")] = "full",
    tasks: Annotated[list[str] | None, typer.Option("--task", help="Only these tasks.")] = None,
) -> None:
    """Submit baselines against themselves and print coverage and resolution."""
    names = tasks or list(task_folders())
    done = read_runs(out)
    finished = {(run.task, run.number) for run in done}
    todo = [(name, number) for number in range(runs) for name in names if (name, number) not in finished]
    if todo:
        judge = Judge(resolve(device))
        best: dict[str, str] = {}
        try:
            for name, number in todo:
                run = run_once(judge, load_task(name), number, effort, best)
                with out.open("ab") as file:
                    file.write(msgspec.json.encode(run) + b"\n")
                typer.echo(f"{name} {number}: {run.baseline} {run.estimate:.4f} [{run.low:.4f}, {run.high:.4f}]", err=True)
        finally:
            judge.close()
    typer.echo(summary(read_runs(out)))


def run_once(judge: Judge, task: Task, number: int, effort: str, best: dict[str, str]) -> Run:
    """One A/A run of a task's best baseline on all public workloads."""
    with judge.device.judging():
        return _run_once(judge, task, number, effort, best)


def _run_once(judge: Judge, task: Task, number: int, effort: str, best: dict[str, str]) -> Run:
    name, plan, seed = task.folder.name, get_effort(effort).plan(judge.device.kind), secrets.randbits(48)
    if name not in best:
        best[name] = _best(judge, task, seed)
    contestant = judge.contestants(task, compiled=True)[best[name]]
    session = judge.host.spawn(trusted=True)
    try:
        session.load(load_request(task, contestant.baseline), LOAD_SECONDS)
        entrant = Entrant("candidate", session, contestant.has_plan, verified=False)
        measured = [
            measure(judge, task, workload, seed, plan, entrant, {best[name]: contestant})
            for workload in task.workloads(judge.device.kind)
        ]
    finally:
        session.close()
    result = speedup([m.samples for m in measured], judge.noise_floor, random.randrange(1 << 30))
    return Run(
        task=name, number=number, device=judge.device.info().name, baseline=best[name], estimate=result.estimate, low=result.low,
        high=result.high, shortest_us=min(m.timing.candidate_us for m in measured),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), versions=versions(),
    )


def _best(judge: Judge, task: Task, seed: int) -> str:
    """The baseline with the smallest count-weighted time."""
    plan = get_effort("quick").plan(judge.device.kind)
    contestants = judge.contestants(task, compiled=True)
    totals = dict.fromkeys(contestants, 0.0)
    first = next(iter(contestants.values()))
    for workload in task.workloads(judge.device.kind):
        session = judge.host.spawn(trusted=True)
        try:
            session.load(load_request(task, first.baseline), LOAD_SECONDS)
            entrant = Entrant("candidate", session, first.has_plan, verified=False)
            timing = measure(judge, task, workload, seed, plan, entrant, dict(contestants)).timing
        finally:
            session.close()
        for name, us in timing.baselines.items():
            totals[name] += timing.count * us
    return min(totals, key=lambda name: totals[name])


def read_runs(path: Path) -> list[Run]:
    """Runs of an earlier call; an unfinished last line is ignored."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    return [msgspec.json.decode(line, type=Run) for line in lines[:-1] if line]


def summary(runs: Iterable[Run]) -> str:
    """A Markdown table: coverage and resolution, pooled and per task."""
    runs = list(runs)
    lines = [
        "| task | baseline | runs | interval contains 1.0 | median half-width | shortest call (us) | largest false claim |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in sorted({run.task for run in runs}):
        lines.append(_row(name, [run for run in runs if run.task == name]))
    lines.append(_row("**all**", runs))
    return "\n".join(lines)


def _row(name: str, runs: list[Run]) -> str:
    covered = sum(run.covers for run in runs)
    half = statistics.median(run.half_width for run in runs)
    claims = [max(run.low, 1 / run.high) for run in runs if not run.covers]
    claim = f"{max(claims) - 1:.2%}" if claims else "none"
    baselines = ", ".join(sorted({run.baseline for run in runs})) if name != "**all**" else ""
    shortest = f"{statistics.median(run.shortest_us for run in runs):.1f}" if name != "**all**" else ""
    return f"| {name} | {baselines} | {len(runs)} | {covered} ({covered / len(runs):.0%}) | {half:.2%} | {shortest} | {claim} |"


if __name__ == "__main__":
    app()
