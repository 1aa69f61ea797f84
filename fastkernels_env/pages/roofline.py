"""Where a task's kernels stand between the best baseline and the speed of light, workload by workload."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ..types import Evaluation, Timing
from . import figures, html
from .run_summary import TaskRun

_COLOURS = {"speed of light": "#d9a62e", "best baseline": "#7f8790", "first accepted": "#8f74c4", "best kernel": "#3fa66b"}


def roofline(run: TaskRun) -> Iterator[html.Markup]:
    """A figure of a task's accepted kernels and a table of its numbers; nothing where none was timed."""
    if run.best is None or run.first is None or not run.best.evaluation.timings:
        return
    best, first = run.best.evaluation, _times_of(run.first.evaluation)
    lines = []
    for timing in best.timings:
        ideal, baseline = speed_of_light_us(timing), timing.baselines.get(timing.best_baseline)
        marks = {"speed of light": ideal, "best baseline": baseline, "best kernel": timing.candidate_us}
        if run.first.number != run.best.number:
            marks["first accepted"] = first.get(timing.workload)
        known = {name: value for name, value in marks.items() if value is not None and math.isfinite(value) and value > 0}
        if known:
            lines.append(figures.Range(timing.workload, known.get("speed of light"), known.get("best baseline"), known))
    if lines:
        yield html.figure(figures.ranges(
            lines, title=f"{run.task} on {run.device}", x_label="microseconds per call", log_x=True, colours=_COLOURS,
        ))
    yield html.details("numbers", html.table(
        ("workload", "calls", "best kernel us", "best baseline us", "which", "ratio", "speed of light us", "share of it reached"),
        [_row(timing) for timing in best.timings], "wrrrlrrr",
    ))


def speed_of_light_us(timing: Timing) -> float | None:
    """The time that the host's measured rates allow for a workload, in microseconds; None if the record does not say."""
    share = timing.speed_of_light
    return timing.candidate_us * share if share is not None and share > 0 and math.isfinite(share) else None


def _times_of(evaluation: Evaluation) -> dict[str, float]:
    return {timing.workload: timing.candidate_us for timing in evaluation.timings}


def _row(timing: Timing) -> tuple[object, ...]:
    baseline, share = timing.baselines.get(timing.best_baseline), timing.speed_of_light
    ratio = f"{baseline / timing.candidate_us:.2f}x" if baseline is not None and timing.candidate_us > 0 else ""
    return (
        timing.workload, f"{timing.count:,}", _us(timing.candidate_us), _us(baseline), timing.best_baseline, ratio,
        _us(speed_of_light_us(timing)), "" if share is None else f"{share:.0%}",
    )


def _us(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
