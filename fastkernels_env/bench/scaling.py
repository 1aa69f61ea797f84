"""Evaluations per minute of a Ray cluster on this host, by number of actors: whether twice the devices do twice the work."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec
import ray

from ..device import most_ranks
from ..fleet.fleet import Fleet
from ..types import Answer
from .throughput import Progress, judge_all, submissions

_FEWEST = 4
"""Submissions for every judge at least: the first and the last of each are not counted."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A batch on a cluster. Times in seconds."""

    actors: int
    judges: int
    """Of all actors together."""
    cores: int
    """Of all actors together."""
    submissions: int
    seconds: float
    first: float
    """Until the first answer, after all actors had answered once."""
    steady_per_minute: float
    """While every judge had work: without as many answers at the beginning, and at the end, as there are judges."""
    outcomes: dict[str, int]


class Scaling(msgspec.Struct, frozen=True, kw_only=True):
    """Clusters of different size."""

    device: str
    effort: str
    runs: list[Run]
    ratio: float
    """Steady evaluations per minute of the largest cluster over those of the smallest."""


def run_scaling(
    device: str, tasks: Sequence[str], files: Sequence[str], count: int, effort: str, judges: int, actors: Sequence[int],
    progress: Progress = lambda text: None,
) -> Scaling:
    """Judge batches on clusters of different size, one after the other; an actor has the same number of cores in each.

    Args:
        device: ``cpu`` or ``cuda``.
        tasks: Whose seeds are judged.
        files: Names of the seed files.
        count: Submissions for every actor; no fewer than four for every judge are made.
        effort: ``full`` or ``quick``.
        judges: Of every actor.
        actors: Sizes of the clusters.
        progress: Called with a line for every answer.

    Raises:
        ValueError: There are more actors than cores, or GPUs.
        TimeoutError: Actors do not answer.
    """
    most = most_ranks(device)
    if max(actors) > most:
        unit = "GPU" if device == "cuda" else "core"
        raise ValueError(f"expected at most {most} actors, one for each {unit} of this host, got {max(actors)}")
    cores = max(len(os.sched_getaffinity(0)) // max(actors), 1)
    runs, names = [], set[str]()
    for size in actors:
        items = list(submissions(device, tasks, files, size * max(count, _FEWEST * judges)))
        with _cluster(device, size, cores), Fleet(device=device, effort=effort, cores=cores, judges=judges) as fleet:
            fleet.wait(size)
            names |= {facts.device.name for facts in fleet.facts()}
            start = time.perf_counter()
            _, answers, ended = asyncio.run(judge_all(fleet, items, progress))
        runs.append(_summary(size, cores, judges, [moment - start for moment in ended], answers))
    return Scaling(device=", ".join(sorted(names)), effort=effort, runs=runs, ratio=_ratio(runs))


@contextlib.contextmanager
def _cluster(device: str, actors: int, cores: int) -> Iterator[None]:
    """A cluster on this host that holds so many actors and no more; its processes have no other cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[: actors * cores])
    try:
        ray.init(
            num_cpus=actors * cores, num_gpus=actors if device == "cuda" else 0, include_dashboard=False, log_to_driver=False,
            logging_level=logging.ERROR,
        )
        yield
    finally:
        ray.shutdown()
        os.sched_setaffinity(0, before)


def _summary(actors: int, cores: int, judges: int, ended: Sequence[float], answers: Sequence[Answer]) -> Run:
    total = actors * judges
    between = ended[-total - 1] - ended[total - 1]
    return Run(
        actors=actors, judges=total, cores=actors * cores, submissions=len(answers), seconds=ended[-1], first=ended[0],
        steady_per_minute=60 * (len(ended) - 2 * total) / between,
        outcomes=dict(Counter(answer.evaluation.outcome.value for answer in answers)),
    )


def _ratio(runs: Sequence[Run]) -> float:
    by_size = sorted(runs, key=lambda run: run.actors)
    return by_size[-1].steady_per_minute / by_size[0].steady_per_minute


def lines(result: Scaling) -> Iterator[str]:
    """The result for a reader."""
    for run in result.runs:
        outcomes = ", ".join(f"{name} {count}" for name, count in run.outcomes.items())
        yield (
            f"{run.actors} actors on {result.device}, {run.judges} judges, {run.cores} cores: {run.submissions} submissions in "
            f"{run.seconds:.0f} s, the first after {run.first:.1f} s; {run.steady_per_minute:.1f} a minute while all had work; {outcomes}"
        )
    yield f"the largest does {result.ratio:.2f} times as many as the smallest"
