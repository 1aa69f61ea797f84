"""A/A runs as records, and what they say together: coverage, resolution, false claims."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from ..judge.effort import get_effort
from ..judge.score import Samples, speedup
from ..types import Speedup


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One A/A run."""

    task: str
    number: int
    device: str
    baseline: str
    workload: str
    effort: str
    estimate: float
    low: float
    high: float
    call_us: float
    """Time per call."""
    kind: str = ""
    """Of the device."""
    count: int = 1
    """Weight of the workload's time in the task's score."""
    ratios: list[list[float]] = []
    """Baseline time over candidate time by place in memory and round."""
    created: str
    versions: dict[str, str]


def read_runs(path: Path) -> list[Run]:
    """Runs of an earlier call; an unfinished last line is ignored."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    return [msgspec.json.decode(line, type=Run) for line in lines[:-1] if line]


def stages(runs: Iterable[Run]) -> list[Speedup]:
    """What the runs of one task say as whole profile stages, each of one run per workload, scored as evaluations are.

    Runs of an earlier version, which did not keep their rounds, make none.
    """
    by_workload: dict[str, list[Run]] = {}
    for run in runs:
        if run.ratios:
            by_workload.setdefault(run.workload, []).append(run)
    return [_stage(together) for together in zip(*by_workload.values(), strict=False)]


def _stage(runs: Sequence[Run]) -> Speedup:
    plan = get_effort(runs[0].effort).plan(runs[0].kind)
    samples = []
    for run in runs:
        rounds = [ratio for place in run.ratios for ratio in place]
        samples.append(Samples(run.workload, run.count, [run.call_us] * len(rounds), {run.baseline: [run.call_us * r for r in rounds]}))
    return speedup(samples, plan.noise_floor, plan.workload_floor)


def summary(runs: Iterable[Run]) -> str:
    """A Markdown table: coverage and resolution on single workloads and of whole profile stages, pooled and per task."""
    runs = list(runs)
    by_task = {name: [run for run in runs if run.task == name] for name in sorted({run.task for run in runs})}
    whole = {name: stages(of_task) for name, of_task in by_task.items()}
    lines = [
        "| task | baseline | time per call (us) | runs | contain 1.0 | median half-width | largest false claim "
        "| profile stages | contain 1.0 | median half-width | largest false claim |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, of_task in by_task.items():
        baselines = ", ".join(sorted({run.baseline for run in of_task}))
        lines.append(_row(name, baselines, of_task, whole[name]))
    lines.append(_row("**all**", "", runs, [stage for of_task in whole.values() for stage in of_task]))
    return "\n".join(lines)


def _row(name: str, baselines: str, runs: Sequence[Run], whole: Sequence[Speedup]) -> str:
    calls = sorted(run.call_us for run in runs)
    span = f"{calls[0]:.3g} to {calls[-1]:.3g}"
    return " | ".join((f"| {name}", baselines, span, *_figures(runs), *_figures(whole))) + " |"


def _figures(results: Sequence[Run | Speedup]) -> tuple[str, str, str, str]:
    """How many, how many contain 1.0, the median of half the intervals' relative widths, and the largest claim that is false."""
    if not results:
        return "0", "-", "-", "-"
    claims = [max(result.low, 1 / result.high) for result in results if not result.low <= 1.0 <= result.high]
    covered = len(results) - len(claims)
    half = statistics.median((result.high - result.low) / (2 * result.estimate) for result in results)
    worst = f"{max(claims) - 1:.2%}" if claims else "none"
    return str(len(results)), f"{covered} ({covered / len(results):.0%})", f"{half:.2%}", worst
