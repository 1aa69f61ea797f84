"""From observations to rows of ``workloads.jsonl``: a handful of shapes for each op, which stand for all of its calls."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ..statements import Workload
from .matching import match
from .observation import Observation
from .ops import Layout, Match
from .situations import MOST_BATCHES, nearest, representatives

MOST_ROWS = 8
"""Rows of one task: each is timed in every evaluation."""
_SETTINGS = ("theta", "neox", "window", "causal", "renormalize")
"""Parameters that the model fixes."""
_SPARSE = ("params", "smoke", "task", "model", "revision", "workload")
"""Keys that are left out where they say nothing."""


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where rows come from, for their ``source`` and the keys beside it."""

    model: str
    revision: str
    workload: str
    summary: str
    device: str = "cuda"


@dataclass
class Group:
    """One op of a model in one kind of step, at all of its sizes: what the model fixes is the same.

    Attributes:
        calls: By the size that the traffic sets.
        matches: A match for each of those sizes.
        steps: Steps that made the calls, by size; 0 where that is not known.
    """

    task: str
    part: str
    kind: str
    calls: Counter[int] = field(default_factory=Counter)
    matches: dict[int, Match] = field(default_factory=dict)
    steps: dict[int, int] = field(default_factory=dict)


def groups(observations: Iterable[Observation], layout: Layout | None = None) -> list[Group]:
    """Observations that tasks mirror, by op."""
    found: dict[tuple[Any, ...], Group] = {}
    for observation in observations:
        for matched in match(observation.measured(), layout):
            fixed = tuple((name, matched.sizes[name]) for name in matched.fixed)
            settings = tuple(matched.params.get(name) for name in _SETTINGS)
            key = (matched.task, matched.dtype, matched.part, fixed, settings, observation.kind)
            group = found.setdefault(key, Group(matched.task, matched.part, observation.kind))
            size = moving(matched)
            group.calls[size] += observation.count
            group.matches.setdefault(size, matched)
            group.steps.setdefault(size, observation.steps)
    return list(found.values())


def moving(matched: Match) -> int:
    """The size that the traffic sets: tokens or sequences."""
    return next(size for name, size in matched.sizes.items() if name not in matched.fixed)


def rows(
    observations: Iterable[Observation], origin: Origin, layout: Layout | None = None, each: int = MOST_BATCHES, most: int = MOST_ROWS
) -> list[Workload]:
    """Rows of all tasks, tasks in alphabetical order.

    Args:
        observations: What was recorded.
        origin: Where it was.
        layout: How the model is spread over GPUs.
        each: Sizes of one op in one kind of step: the smallest, the median, the largest, the most frequent. The calls of the others
            count for the nearest.
        most: Rows of one task; those with the least work (calls times elements) are left out first.
    """
    made: dict[str, list[Workload]] = defaultdict(list)
    for group in groups(observations, layout):
        made[group.task] += _of_group(group, origin, each)
    return [row for task in sorted(made) for row in _finish(_merge(made[task]), most)]


def _merge(made: Sequence[Workload]) -> list[Workload]:
    """Rows of one task that mean the same, as one: a prompt's step may have the size of another's decode step."""
    merged: dict[tuple[Any, ...], Workload] = {}
    for row in made:
        key = row.dtype, tuple(row.sizes.items()), tuple(row.params.items())
        other = merged.get(key)
        if other is not None:
            source = f"{other.source}, and {row.source.rpartition('; ')[2]}"
            row = msgspec.structs.replace(other, count=other.count + row.count, source=source)
        merged[key] = row
    return list(merged.values())


def _of_group(group: Group, origin: Origin, each: int) -> list[Workload]:
    chosen = representatives(group.calls, each)
    counts: Counter[int] = Counter()
    for size, calls in group.calls.items():
        counts[nearest(size, chosen)] += calls
    return [_row(group, size, counts[size], origin) for size in chosen]


def _row(group: Group, size: int, count: int, origin: Origin) -> Workload:
    matched, steps = group.matches[size], group.steps[size]
    often = f"{_many(count // steps, 'call')} a step, {_many(steps, 'step')}" if steps and count % steps == 0 else _many(count, "call")
    what = f", {group.part}" if group.part else ""
    return Workload(
        name=f"{group.part or group.kind or 'call'}-{size}", device=origin.device, dtype=matched.dtype, sizes=matched.sizes,
        params=matched.params, count=count, source=f"{origin.model}, {origin.summary}{what}; {often}", task=group.task, model=origin.model,
        revision=origin.revision, workload=origin.workload,
    )


def _many(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _finish(made: Sequence[Workload], most: int) -> list[Workload]:
    """The rows of one task: the heaviest, under names of their own, one of them marked for the smoke check."""
    kept = sorted(sorted(made, key=_work, reverse=True)[:most], key=made.index)
    smoke = max(kept, key=_evenness)
    taken: Counter[str] = Counter()
    finished = []
    for row in kept:
        taken[row.name] += 1
        name = row.name if taken[row.name] == 1 else f"{row.name}-{taken[row.name]}"
        finished.append(msgspec.structs.replace(row, name=name, smoke=row is smoke))
    return finished


def join(several: Iterable[Sequence[Workload]]) -> list[Workload]:
    """Rows of several workloads for one file: by task, under names of their own, with one smoke shape for each."""
    joined: dict[str, list[Workload]] = defaultdict(list)
    for made in several:
        for row in made:
            taken = {other.name for other in joined[row.task]}
            name = row.name if row.name not in taken else f"{row.workload}-{row.name}"
            joined[row.task].append(msgspec.structs.replace(row, name=name, smoke=row.smoke and not any(r.smoke for r in joined[row.task])))
    return [row for task in sorted(joined) for row in joined[task]]


def _work(row: Workload) -> float:
    return row.count * math.prod(max(size, 1) for name, size in row.sizes.items() if name not in ("P", "pool", "row_stride", "block"))


def _evenness(row: Workload) -> tuple[int, int]:
    """Powers of two in the sizes that the traffic sets; typical tiles fit evenly where there are many."""
    size = next(iter(row.sizes.values()))
    return min(size & -size, 64), -size


def encode(row: Workload) -> str:
    """A line of a file of workloads."""
    values = msgspec.to_builtins(row)
    keep = {key: value for key, value in values.items() if key not in ("overflow", "sampled") and (value or key not in _SPARSE)}
    return json.dumps(keep)


def encode_observation(observation: Observation) -> str:
    """All that is known of an op, one line of JSON: also of those that no task mirrors."""
    known = observation.measured()
    op = msgspec.to_builtins(known)
    seen: dict[str, Any] = {"count": observation.count, "values": observation.values}
    if observation.routing:
        seen["routing"] = [round(sum(ranked) / len(observation.routing), 2) for ranked in zip(*observation.routing, strict=True)]
    if observation.lengths:
        seen["lengths"] = sorted(observation.lengths)
    return json.dumps({**op, **seen, "tasks": sorted({matched.task for matched in match(known)})})
