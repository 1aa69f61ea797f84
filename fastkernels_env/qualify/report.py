"""Counts and lists of a qualification, as Markdown and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from .records import Result, Status

OPEN = frozenset({Status.SURVIVED, Status.DISPROVED})
"""What a task's author has to do something about."""
_COUNTED = (Status.KILLED, Status.WEAK, Status.SURVIVED, Status.DISPROVED)
_LISTED = {
    Status.SURVIVED: "Survivors",
    Status.DISPROVED: "Listed as equivalent, and rejected",
    Status.WEAK: "Found by luck: rejected with some inputs only",
    Status.ERROR: "Faults of ours",
    Status.EQUIVALENT: "Equivalent",
}


def kill_rate(results: Iterable[Result]) -> float:
    """Share of the mutants that build and are not equivalent which were rejected; 1.0 if there are none."""
    counts = Counter(result.status for result in results)
    total = sum(counts[status] for status in _COUNTED)
    return (counts[Status.KILLED] + counts[Status.WEAK] + counts[Status.DISPROVED]) / total if total else 1.0


def to_json(results: Sequence[Result]) -> dict[str, object]:
    """Counts by task, and everything that was not simply rejected."""
    tasks = {}
    for name in sorted({result.task for result in results}):
        own = [result for result in results if result.task == name]
        tasks[name] = {kind: _counts([r for r in own if r.kind == kind]) for kind in ("hand", "auto")} | {"kill_rate": kill_rate(own)}
    return {"tasks": tasks, "kill_rate": kill_rate(results), "open": [_plain(result) for result in results if result.status in OPEN]}


def to_markdown(results: Sequence[Result]) -> str:
    """A table of counts, then survivors, weak spots, faults and equivalent mutants."""
    lines = [
        "| task | seed | hand-written: killed / judged | automatic: killed / judged | by luck | stillborn | equivalent | need a GPU "
        "| survivors | kill rate |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for task, seed in sorted({(result.task, result.seed) for result in results}):
        lines.append(_row(task, seed, [result for result in results if (result.task, result.seed) == (task, seed)]))
    lines.append(_row("**all**", "", results))
    for status, title in _LISTED.items():
        if listed := [result for result in results if result.status is status]:
            lines += ["", f"### {title}", "", *(_item(result) for result in listed)]
    return "\n".join(lines) + "\n"


def _row(task: str, seed: str, results: Sequence[Result]) -> str:
    counts = Counter(result.status for result in results)
    cells = [task, seed, *(_killed([r for r in results if r.kind == kind]) for kind in ("hand", "auto"))]
    cells += [str(counts[status]) for status in (Status.WEAK, Status.STILLBORN, Status.EQUIVALENT, Status.NOT_RUN)]
    return f"| {' | '.join([*cells, str(counts[Status.SURVIVED] + counts[Status.DISPROVED]), f'{kill_rate(results):.1%}'])} |"


def _killed(results: Sequence[Result]) -> str:
    counts = Counter(result.status for result in results)
    total = sum(counts[status] for status in _COUNTED)
    return f"{counts[Status.KILLED] + counts[Status.WEAK]} / {total}"


def _counts(results: Sequence[Result]) -> dict[str, int]:
    return {status.value: count for status, count in sorted(Counter(result.status for result in results).items())}


def _item(result: Result) -> str:
    what = f"{result.task}, {result.seed} line {result.line}, {result.operator or result.id}"
    frequency = f" Rejected {result.kills} of {result.tries} times." if result.status is Status.WEAK else ""
    change = f"`{_one_line(result.before)}` to `{_one_line(result.after)}`"
    why = "" if result.status is Status.SURVIVED else f" {result.reason[:1].upper()}{result.reason[1:]}"
    return f"* {what} (`{result.id}`): {change}.{frequency}{why}"


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 240 else line[:237] + "..."


def _plain(result: Result) -> dict[str, object]:
    wanted = ("task", "seed", "line", "id", "operator", "before", "after", "status", "reason")
    return {name: str(value) if name == "status" else value for name in wanted for value in [getattr(result, name)]}
