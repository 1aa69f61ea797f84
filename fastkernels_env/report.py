"""What a person (and a script) sees of an evaluation: a JSON object, a panel for the terminal, the same as plain text."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from .types import Check, Evaluation, Evidence, Outcome, Reward, Stage, Status, Timing

WIDTH = 100
"""Columns of `plain_report`."""
FEEDBACK_LINES = 20
"""Lines of feedback that a panel shows."""

_STYLES = {
    Outcome.ACCEPTED: "bold green",
    Outcome.UNMEASURED: "bold cyan",
    Outcome.STACK_CONFLICT: "bold yellow",
    Outcome.WRONG: "bold red",
    Outcome.TIMED_OUT: "bold red",
    Outcome.CRASHED: "bold red",
    Outcome.BUILD_FAILED: "bold red",
    Outcome.REJECTED: "bold red",
    Outcome.SILENT_ERROR: "bold magenta",
    Outcome.TAMPERED: "bold white on red",
    Outcome.FAULT: "bold black on yellow",
}
_STAGES = tuple(Stage)
_STATUS_STYLES = {Status.PASSED: "green", Status.FAILED: "bold red", Status.NOT_RUN: "dim"}


def outcome_style(outcome: Outcome) -> str:
    """The rich style in which an outcome is written."""
    return _STYLES[outcome]


def evaluation_json(evaluation: Evaluation, reward: Reward) -> dict[str, Any]:
    """The public JSON object of an evaluation: plain data, and null where a number is not finite.

    Args:
        evaluation: The record.
        reward: Its reward; a fault has the total None, which becomes null.

    Returns:
        The keys ``schema_version``, ``task``, ``device`` (``cpu`` or ``cuda``), ``outcome``, ``reward``, ``checks``, ``speedup``
        (null where nothing was timed), ``baseline``, ``timings`` (microseconds), ``seconds`` (by stage) and ``feedback``.
    """
    speedup = evaluation.speedup
    return {
        "schema_version": evaluation.schema_version,
        "task": evaluation.task,
        "device": evaluation.device.kind,
        "outcome": evaluation.outcome.value,
        "reward": {"total": _finite(reward.total), "parts": _finite_values(reward.parts)},
        "checks": [
            {"name": c.name, "stage": c.stage.value, "status": c.status.value, "evidence": c.evidence.value, "detail": c.detail}
            for c in evaluation.checks
        ],
        "speedup": speedup and {name: _finite(getattr(speedup, name)) for name in ("estimate", "low", "high")},
        "baseline": _baselines(evaluation),
        "timings": [
            {
                "workload": timing.workload,
                "candidate_us": _finite(timing.candidate_us),
                "baselines": _finite_values(timing.baselines),
                "speed_of_light": _finite(timing.speed_of_light),
            }
            for timing in evaluation.timings
        ],
        "seconds": _finite_values(evaluation.seconds),
        "feedback": evaluation.feedback,
    }


def render_evaluation(evaluation: Evaluation, reward: Reward | None = None) -> RenderableType:
    """A panel with everything that a person wants to know of an evaluation, made for 100 columns.

    Text that came from the submission is shown without its control characters: it cannot steer the terminal.
    """
    style = outcome_style(evaluation.outcome)
    sections: list[list[RenderableType | None]] = [
        [_headline(evaluation, style)],
        [_reward_line(reward) if reward else None, _speedup_line(evaluation)],
        [_check_table(evaluation.checks) if evaluation.checks else None],
        [_timing_table(evaluation.timings) if evaluation.timings else None],
        [_baseline_line(evaluation), _seconds_line(evaluation)],
        [_feedback(evaluation.feedback) if evaluation.feedback.strip() else None],
    ]
    shown: list[RenderableType] = []
    for section in sections:
        lines = [line for line in section if line is not None]
        shown += [Text(), *lines] if shown and lines else lines
    device = f"{evaluation.device.kind}, {evaluation.device.name}" if evaluation.device.name else evaluation.device.kind
    title = _text(f" {evaluation.task} on {device} ", "bold")
    return Panel(Group(*shown), title=title, title_align="left", border_style=style.split()[-1], padding=(1, 2))


def plain_report(evaluation: Evaluation, reward: Reward | None = None) -> str:
    """`render_evaluation` as text of 100 columns, without colour codes."""
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None, force_terminal=False, legacy_windows=False)
    with console.capture() as capture:
        console.print(render_evaluation(evaluation, reward))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _headline(evaluation: Evaluation, style: str) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    badge = Text(f" {evaluation.outcome.value.upper().replace('_', ' ')} ", style=style if " on " in style else f"{style} reverse")
    grid.add_row(badge, _text(evaluation.reason))
    return grid


def _reward_line(reward: Reward) -> RenderableType:
    if reward.total is None:
        return _labelled("reward", Text("none: the fault is ours, drop this sample"))
    line = Text().append(f"{reward.total:+.3f}", style="bold").append(f"  ({_clean(reward.preset)})", style="dim")
    for index, (name, value) in enumerate(reward.parts.items()):
        line.append(f"{'   ' if index else chr(10)}{_clean(name)} ", style="dim")
        line.append(f"{value:+.3f}", style="" if value else "dim")
    return _labelled("reward", line)


def _speedup_line(evaluation: Evaluation) -> RenderableType | None:
    speedup = evaluation.speedup
    if speedup is None:
        return None
    colour = "green" if speedup.low > 1 else "red" if speedup.high < 1 else "yellow"
    line = Text().append(f"{speedup.estimate:.3g}x", style=f"bold {colour}")
    line.append(f"  95 % interval {speedup.low:.3g} to {speedup.high:.3g}")
    line.append(f"   worst {speedup.worst:.3g}x in {_clean(speedup.worst_workload)}", style="dim")
    return _labelled("speedup", line)


def _check_table(checks: Sequence[Check]) -> Table:
    table = _table()
    table.add_column("stage", no_wrap=True)
    table.add_column("check", overflow="fold", max_width=34)
    table.add_column("status", no_wrap=True)
    table.add_column("detail", overflow="fold", ratio=1)
    in_order = sorted(checks, key=lambda check: _STAGES.index(check.stage))
    for stage, members in itertools.groupby(in_order, key=lambda check: check.stage):
        first = stage.value
        for names, check in _merged(members):
            not_run = check.status is Status.NOT_RUN
            status = Text(check.status.value.replace("_", " "), style=_STATUS_STYLES[check.status])
            if check.evidence is Evidence.REPORTED and not not_run:
                status.append(" (reported)", style="dim")
            table.add_row(Text(first, style="bold"), _text(names), status, _text(check.detail), style="dim" if not_run else None)
            first = ""
    return table


def _merged(checks: Iterable[Check]) -> list[tuple[str, Check]]:
    """Rows of one stage: checks that were not run for the same reason share the last row's place."""
    rows: dict[object, list[Check]] = {}
    for index, check in enumerate(checks):
        rows.setdefault(check.detail if check.status is Status.NOT_RUN else index, []).append(check)
    return [(", ".join(check.name for check in members), members[0]) for members in rows.values()]


def _timing_table(timings: Sequence[Timing]) -> Table:
    names = list(dict.fromkeys(name for timing in timings for name in timing.baselines))
    table = _table()
    table.add_column("workload", overflow="fold", ratio=1)
    for name in ("count", "candidate\nus", *(f"{_clean(name)}\nus" for name in names), "ratio", "speed of\nlight"):
        table.add_column(name, justify="right", overflow="fold")
    for timing in timings:
        best = timing.baselines.get(timing.best_baseline)
        ratio = best / timing.candidate_us if best is not None and timing.candidate_us > 0 else None
        others = [Text(_microseconds(timing.baselines.get(name)), "" if name == timing.best_baseline else "dim") for name in names]
        table.add_row(
            _text(timing.workload),
            str(timing.count),
            Text(_microseconds(timing.candidate_us), style="bold"),
            *others,
            Text("-" if ratio is None else f"{ratio:.2f}x", style="" if ratio is None else "green" if ratio >= 1 else "red"),
            "-" if timing.speed_of_light is None else f"{timing.speed_of_light:.0%}",
        )
    return table


def _baseline_line(evaluation: Evaluation) -> RenderableType | None:
    baselines = _baselines(evaluation)
    line = Text(", ".join(map(_clean, baselines["used"])) or "none used")
    for name, reason in baselines["not_available"].items():
        line.append(f"\n{_clean(name)} not available{': ' if reason else ''}{_clean(reason)}", style="dim")
    return _labelled("baselines", line) if evaluation.baselines else None


def _seconds_line(evaluation: Evaluation) -> RenderableType | None:
    if not evaluation.seconds:
        return None
    return _labelled("seconds", Text("   ".join(f"{_clean(stage)} {value:.2f}" for stage, value in evaluation.seconds.items())))


def _feedback(feedback: str) -> RenderableType:
    lines = feedback.strip("\n").splitlines()
    text = _text("\n".join(lines[:FEEDBACK_LINES]))
    if len(lines) > FEEDBACK_LINES:
        text.append(f"\n({len(lines) - FEEDBACK_LINES} more lines)", style="dim")
    return text


def _labelled(label: str, value: Text) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(width=9, style="dim")
    grid.add_column()
    grid.add_row(label, value)
    return grid


def _table() -> Table:
    return Table(box=SIMPLE_HEAD, expand=True, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0), header_style="dim")


def _baselines(evaluation: Evaluation) -> dict[str, Any]:
    unused = [baseline for baseline in evaluation.baselines if baseline.status != "used"]
    return {
        "used": [baseline.name for baseline in evaluation.baselines if baseline.status == "used"],
        "not_available": {b.name: b.detail if b.status == "not_available" else f"{b.status}: {b.detail}" for b in unused},
    }


def _microseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:#.3g}".rstrip(".")


def _text(text: str, style: str = "") -> Text:
    return Text(_clean(text), style=style)


def _clean(text: str) -> str:
    """Printable text: control characters, which could steer a terminal, become replacement marks."""
    return "".join(char if char.isprintable() or char == "\n" else "    " if char == "\t" else "\ufffd" for char in text)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _finite_values(values: dict[str, float]) -> dict[str, float | None]:
    return {name: _finite(value) for name, value in values.items()}
