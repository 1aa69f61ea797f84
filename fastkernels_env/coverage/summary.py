"""How many architectures the tasks cover, and what is missing most."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

import msgspec

from .categories import CATEGORIES
from .measured import Measured

THRESHOLD = 0.9
"""Share of an architecture's modelled device time that covered tasks must account for."""


class Tally(msgspec.Struct, kw_only=True):
    """Architectures of a category, or of all."""

    category: str
    covered: int = 0
    total: int = 0
    failed: int = 0
    """Those that could not be built or run; they are not covered."""


class Missing(msgspec.Struct, kw_only=True, frozen=True):
    """A task that does not exist yet."""

    task: str
    share: float
    """Mean over the architectures of the share of their modelled time."""
    architectures: int
    """How many have any of it."""
    decides: int
    """How many architectures more would be covered with it alone."""
    ops: tuple[str, ...]


class Summary(msgspec.Struct, kw_only=True):
    """The result of a walk."""

    threshold: float
    tasks: tuple[str, ...]
    all: Tally
    categories: tuple[Tally, ...]
    missing: tuple[Missing, ...]
    order: tuple[tuple[str, int], ...]
    """Tasks in the order in which they are best added, and how many architectures are covered then."""
    failures: dict[str, str]


def covered_share(measured: Measured, tasks: Collection[str]) -> float:
    """Share of an architecture's modelled time for which tasks account; 0 where it was not run."""
    total = sum(measured.seconds.values())
    return sum(s for task, s in measured.seconds.items() if task in tasks) / total if total else 0.0


def is_covered(measured: Measured, tasks: Collection[str]) -> bool:
    """Whether an architecture is covered: all of it was run, and tasks account for the time."""
    return not measured.problem and covered_share(measured, tasks) >= THRESHOLD


def summarise(results: Sequence[Measured], tasks: Collection[str]) -> Summary:
    """Sum up a walk.

    Args:
        results: One per architecture.
        tasks: Names of the tasks that exist.
    """
    everything = Tally(category="all")
    by_category = {category: Tally(category=category) for category in CATEGORIES}
    for measured in results:
        for tally in (everything, by_category[measured.category]):
            tally.total += 1
            tally.covered += is_covered(measured, tasks)
            tally.failed += bool(measured.problem)
    return Summary(
        threshold=THRESHOLD, tasks=tuple(sorted(tasks)), all=everything, categories=tuple(by_category.values()),
        missing=_missing(results, tasks), order=_order(results, tasks), failures={m.name: m.problem for m in results if m.problem},
    )


def _missing(results: Sequence[Measured], tasks: Collection[str]) -> tuple[Missing, ...]:
    ran = [m for m in results if m.seconds]
    shares: dict[str, list[float]] = defaultdict(list)
    ops: dict[str, set[str]] = defaultdict(set)
    for measured in ran:
        total = sum(measured.seconds.values())
        for task, spent in measured.seconds.items():
            if task not in tasks and spent:
                shares[task].append(spent / total)
                ops[task].update(measured.ops.get(task, ()))
    found = [
        Missing(
            task=task, share=sum(values) / len(ran), architectures=len(values), ops=tuple(sorted(ops[task])),
            decides=sum(is_covered(m, {*tasks, task}) and not is_covered(m, tasks) for m in results),
        )
        for task, values in shares.items()
    ]
    return tuple(sorted(found, key=lambda m: (-m.share, m.task)))


def _order(results: Sequence[Measured], tasks: Collection[str], most: int = 60) -> tuple[tuple[str, int], ...]:
    """Greedy: each time the task that brings most architectures over the line, or, where none does, closest to it."""
    have = set(tasks)
    open_ = [m for m in results if not m.problem and m.seconds and not is_covered(m, have)]
    done = sum(is_covered(m, have) for m in results)
    order: list[tuple[str, int]] = []
    while open_ and len(order) < most:
        names = sorted({task for m in open_ for task in m.seconds} - have)
        best = max(names, key=lambda name: _worth(open_, have | {name}))
        have.add(best)
        now = [m for m in open_ if not is_covered(m, have)]
        done += len(open_) - len(now)
        open_ = now
        order.append((best, done))
    return tuple(order)


def _worth(results: Sequence[Measured], tasks: set[str]) -> tuple[int, float]:
    return sum(is_covered(m, tasks) for m in results), sum(min(THRESHOLD, covered_share(m, tasks)) for m in results)
