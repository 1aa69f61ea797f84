"""What a submission competes with: every baseline of every task, timed beside one seed, and how near each comes to the speed of light."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from ..evaluator import Evaluator
from ..log import read_log
from ..registry import load_task
from ..types import Evaluation, Outcome, Timing
from .alarms import seeds_on

_SEED = "seed"


def run_baselines(
    device: str, tasks: Sequence[str], files: Sequence[str], effort: str, out: Path,
    progress: Callable[[Evaluation], None] = lambda evaluation: None,
) -> list[Evaluation]:
    """Judge one seed of every task, all of whose workloads and baselines are timed then.

    Args:
        device: ``cpu`` or ``cuda``.
        tasks: Names of tasks.
        files: Names of seed files; of each task the first that it has is judged.
        effort: ``full`` or ``quick``, which leaves baselines out that are compiled, and most workloads.
        out: Log to append to. A seed that it holds as accepted, at this effort and from this kind of device, is not judged again.
        progress: Called with every new record.

    Returns:
        The last record of each task.

    Raises:
        LogError: The log cannot be read, or a record could not be appended to it.
        ValueError: Unknown effort.
    """
    chosen = _chosen(device, tasks, files)
    sources = {task: load_task(task).seeds()[file] for task, file in chosen.items()}
    found = {
        record.task: record for record in (read_log(out) if out.exists() else ())
        if record.text == sources.get(record.task) and (record.device.kind, record.effort) == (device, effort)
    }  # fmt: skip
    todo = [task for task in sources if task not in found or found[task].outcome is not Outcome.ACCEPTED]
    if todo:
        with Evaluator(device, effort=effort, log=out) as evaluator:
            for task in todo:
                found[task] = evaluator.evaluate(task, sources[task])
                progress(found[task])
    return [found[task] for task in sorted(found)]


def _chosen(device: str, tasks: Sequence[str], files: Sequence[str]) -> dict[str, str]:
    """A seed file for every task that has one of these."""
    known = seeds_on(device, tasks)
    return {task: next(f for f in files if (task, f) in known) for task in tasks if any((task, f) in known for f in files)}


def latest(log: Path, tasks: Sequence[str] = ()) -> list[Evaluation]:
    """The last record of each task in a log, or of these tasks alone.

    Raises:
        LogError: The log cannot be read.
    """
    found = {record.task: record for record in read_log(log) if not tasks or record.task in tasks}
    return [found[task] for task in sorted(found)]


def brief(record: Evaluation) -> str:
    """A record in a line."""
    names = " ".join(f"{report.name}={report.status}" for report in record.baselines)
    speed = f"{record.speedup.estimate:.3f}x" if record.speedup is not None else "-"
    reason = f" | {record.reason}" if record.outcome is not Outcome.ACCEPTED else ""
    return f"{record.task} | {record.outcome.value} | {speed} | {names} | {record.seconds.get('total', 0.0):.0f} s{reason}"


def page(records: Sequence[Evaluation]) -> Iterator[str]:
    """The records as lines of Markdown: all tasks in one table, then the workloads of each."""
    timed = [record for record in records if record.timings]
    for record in timed[:1]:
        used = ", ".join(f"{name} {version}" for name, version in sorted(record.versions.items()))
        yield f"{record.created[:10]}, {record.device.name}, effort {record.effort}; {used}."
        yield ""
    yield "| task | fastest baseline | of the speed of light | seed | of the speed of light | seed's speedup (95 % interval) |"
    yield "|---|---|---|---|---|---|"
    for record in timed:
        yield _summary(record)
    for record in timed:
        yield from ("", f"### {record.task}", "", *_workloads(record))
    missing = [record for record in records if not record.timings]
    if missing:
        yield from ("", "Not timed:", "", *(f"* `{record.task}`: {record.outcome.value}, {record.reason}" for record in missing))


def _summary(record: Evaluation) -> str:
    best: dict[str, float] = {}
    for timing in record.timings:
        best[timing.best_baseline] = best.get(timing.best_baseline, 0.0) + timing.count * timing.baselines[timing.best_baseline]
    share = sum(best.values())
    names = ", ".join(f"{name} ({part / share:.0%})" if len(best) > 1 else name for name, part in sorted(best.items(), key=lambda b: -b[1]))
    fractions = [_mean(_fraction(timing, name) for timing in record.timings) for name in ("", _SEED)]
    speed = record.speedup
    interval = f"{speed.estimate:.3f} ({speed.low:.3f} to {speed.high:.3f})" if speed is not None else "-"
    return f"| [{record.task}](#{record.task}) | {names} | {fractions[0]} | {record.language} | {fractions[1]} | {interval} |"


def _workloads(record: Evaluation) -> Iterator[str]:
    names = [name for name in (report.name for report in record.baselines) if any(name in timing.baselines for timing in record.timings)]
    yield f"| workload | calls | {' | '.join(names)} | {_SEED} |"
    yield "|---" * (len(names) + 3) + "|"
    for timing in record.timings:
        cells = [_cell(timing, name) for name in names]
        yield f"| {timing.workload} | {timing.count} | {' | '.join(cells)} | {_cell(timing, _SEED)} |"
    for report in record.baselines:
        if report.name not in names:
            yield from ("", f"`{report.name}`: {report.status.replace('_', ' ')}{': ' + report.detail if report.detail else ''}")


def _cell(timing: Timing, name: str) -> str:
    """Microseconds and the fraction of the speed of light; the fastest baseline's in bold."""
    micros = timing.candidate_us if name == _SEED else timing.baselines.get(name)
    if micros is None:
        return "-"
    fraction = _fraction(timing, name)
    cell = f"{micros:.1f}" + (f" ({fraction:.0%})" if fraction is not None else "")
    return f"**{cell}**" if name == timing.best_baseline else cell


def _fraction(timing: Timing, name: str) -> float | None:
    """Of the speed of light: the seed's, that of a baseline, or without a name that of the fastest."""
    if timing.speed_of_light is None or name == _SEED:
        return timing.speed_of_light
    return timing.speed_of_light * timing.candidate_us / timing.baselines[name or timing.best_baseline]


def _mean(fractions: Iterable[float | None]) -> str:
    """Their geometric mean."""
    known = [fraction for fraction in fractions if fraction]
    return f"{math.exp(sum(map(math.log, known)) / len(known)):.0%}" if known else "-"
