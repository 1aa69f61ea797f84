"""False alarms: every seed of every task, judged again and again on fresh inputs. It must be accepted each time."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from ..evaluator import Evaluator
from ..registry import load_task
from ..submission import RejectedError, extract
from ..types import Language, Outcome
from ..versions import versions

RIGHT = (Outcome.ACCEPTED.value, Outcome.UNMEASURED.value)


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """One evaluation of a seed."""

    task: str
    seed_file: str
    number: int
    device: str
    effort: str
    seed: int
    outcome: str
    decided_by: str
    reason: str
    seconds: float
    stages: dict[str, float] = {}
    """Seconds by stage."""
    created: str
    versions: dict[str, str]

    @property
    def right(self) -> bool:
        """Whether it was judged as a seed must be: accepted, or unmeasured where its language cannot be timed."""
        return self.outcome in RIGHT


def seeds_on(device: str, tasks: Sequence[str]) -> list[tuple[str, str]]:
    """Task and file name of every seed that a device can judge."""
    found = []
    for name in tasks:
        for file, source in load_task(name).seeds().items():
            try:
                language = extract(source, load_task(name), device).language
            except RejectedError:
                continue
            if device == "cuda" or language is not Language.CUDA:
                found.append((name, file))
    return found


def run_alarms(
    device: str, tasks: Sequence[str], count: int, effort: str, out: Path, progress: Callable[[Alarm], None] = lambda row: None,
    files: Sequence[str] = (),
) -> list[Alarm]:
    """Judge every seed `count` times; each result is a line of `out`, and what that holds is not run again.

    Args:
        device: ``cpu`` or ``cuda``.
        tasks: Names of tasks.
        count: Evaluations of each seed.
        effort: ``full`` or ``quick``.
        out: JSONL file.
        progress: Called with every new result.
        files: Names of the seed files that are judged; all if empty.
    """
    done = {(row.task, row.seed_file, row.number) for row in read_alarms(out)}
    seeds = [seed for seed in seeds_on(device, tasks) if not files or seed[1] in files]
    todo = [(*seed, number) for number in range(count) for seed in seeds if (*seed, number) not in done]
    if todo:
        with Evaluator(device, effort=effort) as evaluator:
            for task, file, number in todo:
                row = _judge(evaluator, task, file, number)
                with out.open("ab") as lines:
                    lines.write(msgspec.json.encode(row) + b"\n")
                progress(row)
    return read_alarms(out)


def _judge(evaluator: Evaluator, task: str, file: str, number: int) -> Alarm:
    evaluation = evaluator.evaluate(task, load_task(task).seeds()[file])
    return Alarm(
        task=task, seed_file=file, number=number, device=evaluation.device.name, effort=evaluation.effort, seed=evaluation.seed,
        outcome=evaluation.outcome.value, decided_by=evaluation.decided_by, reason=evaluation.reason,
        seconds=evaluation.seconds.get("total", 0.0), stages=evaluation.seconds, versions=versions(),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )  # fmt: skip


def read_alarms(path: Path) -> list[Alarm]:
    """Results of an earlier call; an unfinished last line is ignored."""
    if not path.exists():
        return []
    return [msgspec.json.decode(line, type=Alarm) for line in path.read_bytes().split(b"\n")[:-1] if line]


HEADER = ("task", "seed", "right", "median seconds", "what else came")


def table(rows: Iterable[Alarm]) -> list[tuple[str, ...]]:
    """The cells of a line for every seed, and of one for all."""
    rows = list(rows)
    seeds = sorted({(row.task, row.seed_file) for row in rows})
    lines = [_line(*seed, [row for row in rows if (row.task, row.seed_file) == seed]) for seed in seeds]
    return [*lines, _line("all", "", rows)] if rows else []


def _line(task: str, file: str, rows: list[Alarm]) -> tuple[str, ...]:
    times = sorted(row.seconds for row in rows)
    others = ", ".join(f"{row.outcome} by {row.decided_by or 'a fault'} (seed {row.seed})" for row in rows if not row.right)
    return task, file, f"{sum(row.right for row in rows)} of {len(rows)}", f"{times[len(times) // 2]:.1f}", others or "-"
