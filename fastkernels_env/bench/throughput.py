"""Evaluations per minute of one device, and whether judging many at a time changes what is measured."""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from ..device import open_device
from ..evaluator import Evaluator
from ..registry import load_task
from ..types import Answer, Evaluation, Item, Outcome
from .alarms import seeds_on
from .busy import Busy, Shares

Progress = Callable[[str], None]
_LOOP_SECONDS = 300.0
_AHEAD = 3
"""Replies in hand for every judge, so that it can choose one whose baselines it has."""


class Usual(msgspec.Struct, frozen=True, kw_only=True):
    """A loop of one process after the other; see `usual`."""

    count: int
    right: int
    seconds: float
    per_minute: float


class LoadEffect(msgspec.Struct, frozen=True, kw_only=True):
    """Speedups of one seed, judged beside others and judged alone: medians, and the relative half-width that each claims."""

    seed: str
    together: float
    alone: float
    half_width: float


class Throughput(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch took. Times in seconds."""

    device: str
    judges: int
    effort: str
    submissions: int
    """That were answered ..."""
    unanswered: int
    """... and those that were still open when the time was over."""
    seconds: float
    per_minute: float
    first: float
    """Until the first answer: processes start, baselines are tried."""
    sustained_per_minute: float
    """Of the answers after the first."""
    alone_share: float
    """Share of the time in which one judge had the device to itself."""
    latency_median: float
    latency_p95: float
    stages: dict[str, float]
    """Median by stage."""
    tasks: dict[str, float]
    """Median of an evaluation by task."""
    outcomes: dict[str, int]
    busy: Shares
    """While the batch was judged."""
    usual: Usual | None = None
    ratio: float | None = None
    """Evaluations per minute over those of the usual loop."""
    load: list[LoadEffect] = []


def submissions(device: str, tasks: Sequence[str], files: Sequence[str], count: int) -> Iterator[Item]:
    """Distinct replies: the tasks' seeds in turn, each with a comment of its own in it, so that nothing that was built serves twice."""
    seeds = [seed for seed in seeds_on(device, tasks) if not files or seed[1] in files]
    for number in range(count):
        task, file = seeds[number % len(seeds)]
        yield Item(task=task, text=marked(load_task(task).seeds()[file], file, number))


def marked(source: str, file: str, number: int) -> str:
    """A seed's source with a comment in the first line of every kernel, in a fence."""
    if file.endswith(".py"):
        lines = [f"{line}\n    # {number}" if line.startswith("def ") and line.endswith(":") else line for line in source.splitlines()]
        return "```python\n" + "\n".join(lines) + "\n```"
    return f"```{'cuda' if file.endswith('.cu') else 'cpp'}\n// {number}\n{source}\n```"


def run_throughput(
    device: str, tasks: Sequence[str], files: Sequence[str], count: int, effort: str, judges: int | str, usual: int, alone: int,
    progress: Progress = lambda text: None, within: float | None = None,
) -> Throughput:
    """Judge a batch, then some of it the usual way and some of it alone, in one run.

    Args:
        device: ``cpu`` or ``cuda``.
        tasks: Whose seeds are judged.
        files: Names of the seed files; all if empty.
        count: Submissions.
        effort: ``full`` or ``quick``.
        judges: As for `Evaluator`.
        usual: How many of them go through the usual loop as well.
        alone: How often every seed is judged alone afterwards.
        progress: Called with a line for every answer.
        within: Seconds after which the batch ends, whatever is still open.

    Raises:
        RuntimeError: Nothing was answered by then, or the usual loop failed.
    """
    items = list(submissions(device, tasks, files, count))
    with Evaluator(device, effort=effort, judges=judges) as evaluator, Busy(open_device(device).info().uuid) as busy:
        asked, answers, ended = asyncio.run(judge_all(evaluator, items, progress, within))
        share, seats = evaluator.alone_seconds, evaluator.judges
    if not answers:
        raise RuntimeError(f"none of {len(asked)} submissions was answered within {within} s")
    count = len(answers)
    start, last = min(asked), max(ended)
    first = min(ended)
    latencies = sorted(end - asked[answer.index] for answer, end in zip(answers, ended, strict=True))
    evaluations = [answer.evaluation for answer in answers]
    loop = _usual(items[:usual], device) if usual else None
    per_minute = 60 * count / (last - start)
    return Throughput(
        device=evaluations[0].device.name, judges=seats, effort=effort, submissions=count,
        unanswered=len(asked) - count, seconds=last - start, per_minute=per_minute,
        first=first - start, sustained_per_minute=60 * (count - 1) / (last - first) if count > 1 else per_minute,
        alone_share=share / (last - start), latency_median=statistics.median(latencies),
        latency_p95=latencies[min(round(0.95 * len(latencies)), len(latencies) - 1)],
        stages=_stages(evaluations), tasks=_tasks(evaluations),
        outcomes=dict(Counter(evaluation.outcome.value for evaluation in evaluations)), busy=busy.shares, usual=loop,
        ratio=per_minute / loop.per_minute if loop else None, load=_load(device, effort, items, answers, alone) if alone else [],
    )  # fmt: skip


async def judge_all(
    evaluator: Evaluator, items: list[Item], progress: Progress, within: float | None = None
) -> tuple[list[float], list[Answer], list[float]]:
    """Judge a batch: when every item was handed in, the answers in the order in which they came, and when they did.

    After `within` seconds it ends with what was answered by then.
    """
    asked: list[float] = []
    answers, ended = [], []

    def handed() -> Iterator[Item]:
        for item in items:
            asked.append(time.perf_counter())
            yield item

    try:
        async with asyncio.timeout(within):
            async for answer in evaluator.evaluate_many(handed(), ahead=_AHEAD * max(evaluator.judges, 1)):
                answers.append(answer)
                ended.append(time.perf_counter())
                reason = f": {answer.evaluation.reason}" if answer.evaluation.outcome is not Outcome.ACCEPTED else ""
                said = f"{answer.item.task} {answer.evaluation.outcome.value}{reason}"
                progress(f"{ended[-1] - asked[0]:.1f} s, {len(answers)} of {len(items)}: {said}")
    except TimeoutError:
        progress(f"{within:g} s are over: {len(asked) - len(answers)} submissions are left without an answer")
    return asked, answers, ended


def _stages(evaluations: Sequence[Evaluation]) -> dict[str, float]:
    names = dict.fromkeys(name for evaluation in evaluations for name in evaluation.seconds)
    return {name: statistics.median(e.seconds[name] for e in evaluations if name in e.seconds) for name in names}


def _tasks(evaluations: Sequence[Evaluation]) -> dict[str, float]:
    names = sorted({evaluation.task for evaluation in evaluations})
    return {name: statistics.median(e.seconds["total"] for e in evaluations if e.task == name) for name in names}


def _usual(items: Sequence[Item], device: str) -> Usual:
    right, start = 0, time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="usual-") as folder:
        for item in items:
            file = Path(folder) / "reply.txt"
            file.write_text(item.text)
            command = [sys.executable, "-P", "-m", "fastkernels_env.bench.usual", item.task, str(file), device]
            ended = subprocess.run(command, capture_output=True, text=True, timeout=_LOOP_SECONDS)
            if ended.returncode:
                raise RuntimeError(f"the usual loop failed on {item.task}: {ended.stderr.strip().splitlines()[-1:]}")
            right += bool(json.loads(ended.stdout.strip().splitlines()[-1])["right"])
    seconds = time.perf_counter() - start
    return Usual(count=len(items), right=right, seconds=seconds, per_minute=60 * len(items) / seconds)


def _load(device: str, effort: str, items: Sequence[Item], answers: Sequence[Answer], alone: int) -> list[LoadEffect]:
    """Every seed's speedups in the batch and alone."""
    together: dict[str, list[Evaluation]] = {}
    texts = {}
    for answer in answers:
        name = f"{answer.item.task}/{answer.evaluation.language}"
        together.setdefault(name, []).append(answer.evaluation)
        texts[name] = answer.item
    rows = []
    with Evaluator(device, effort=effort) as evaluator:
        for name, item in sorted(texts.items()):
            single = [evaluator.evaluate(item.task, item.text) for _ in range(alone)]
            one, other = _speedups(together[name]), _speedups(single)
            if one and other:
                rows.append(LoadEffect(
                    seed=name, together=statistics.median(s for s, _ in one), alone=statistics.median(s for s, _ in other),
                    half_width=statistics.median(width for _, width in one + other),
                ))  # fmt: skip
    return rows


def _speedups(evaluations: Sequence[Evaluation]) -> list[tuple[float, float]]:
    """Speedup and relative half-width of its interval, of those that were accepted."""
    found = [e.speedup for e in evaluations if e.outcome is Outcome.ACCEPTED and e.speedup is not None]
    return [(speed.estimate, (speed.high - speed.low) / 2 / speed.estimate) for speed in found]


def lines(result: Throughput) -> Iterator[str]:
    """The result for a reader."""
    left = f" ({result.unanswered} more were not answered in time)" if result.unanswered else ""
    how = f"{result.judges} judges, effort {result.effort}"
    yield f"{result.submissions} submissions{left} on {result.device}, {how}: {result.seconds:.0f} s"
    yield f"evaluations per minute: {result.per_minute:.1f}; after the first, {result.first:.1f} s: {result.sustained_per_minute:.1f}"
    yield f"one judge had the device to itself for {result.alone_share:.0%} of the time"
    yield (
        f"seconds from being handed in, {_AHEAD} for every judge, to an answer: "
        f"median {result.latency_median:.1f}, 95th percentile {result.latency_p95:.1f}"
    )
    yield "median seconds by stage: " + ", ".join(f"{name} {seconds:.2f}" for name, seconds in result.stages.items())
    yield "median seconds by task: " + ", ".join(f"{name} {seconds:.1f}" for name, seconds in result.tasks.items())
    gpu = "" if result.busy.gpu is None else f", the GPU for {result.busy.gpu:.0%} of the time"
    yield f"cores that were busy: {result.busy.cores:.1f}{gpu}"
    each = ", ".join(f"{role} {seconds / result.submissions:.1f}" for role, seconds in result.busy.core_seconds.items())
    yield f"core seconds of an evaluation: {each}"
    yield "outcomes: " + ", ".join(f"{name} {count}" for name, count in result.outcomes.items())
    if result.usual is not None:
        yield (
            f"a process for each, the usual checks: {result.usual.count} in {result.usual.seconds:.0f} s, "
            f"{result.usual.per_minute:.1f} per minute; this is {result.ratio:.2f} times as many"
        )
    for row in result.load:
        change = f"{row.together / row.alone - 1:+.1%} (interval +- {row.half_width:.1%})"
        yield f"{row.seed}: speedup {row.together:.3f} beside others, {row.alone:.3f} alone, {change}"
