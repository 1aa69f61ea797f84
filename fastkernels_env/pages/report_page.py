"""One run as a page: what was tried and when, where the best kernels stand, what was verified, and why submissions failed."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence

from ..report import plain_report
from ..types import Outcome, Stage, Status
from . import figures, html
from .roofline import roofline
from .run_summary import NOT_REACHED, Kernel, Row, RunSummary, TaskRun, finite, mean
from .timeline import timeline

LAST = 50
"""Evaluations that are listed one by one."""
_CODE_CHARS = 65_536
_SHOWN_TASKS = 40
_MARKS = {Status.PASSED.value: ("\u2713", "good"), Status.FAILED.value: ("\u2717", "bad"), Status.NOT_RUN.value: ("\u25cb", "dim")}


def report_page(summary: RunSummary, title: str, preset: str, note: str = "") -> str:
    """A run as an HTML page.

    Args:
        summary: The run's records; at least one.
        title: Heading of the page.
        preset: Name of the preset that scored them.
        note: What else the reader has to know, such as that lines of the log could not be read.

    Raises:
        Problem: matplotlib is not installed.
    """
    rows = summary.rows
    times = sorted(row.created for row in rows if row.created)
    about = [f"{len(rows):,} evaluations", f"scored with {preset}", f"on {', '.join(summary.devices)}"]
    about += [f"{_minute(times[0])} to {_minute(times[-1])}"] if times else []
    sections = [
        html.Section("Outcomes", [_outcome_table(summary), *_run_table(summary, preset)]),
        html.Section("Timeline", list(timeline(rows))),
        html.Section("Best kernels", list(_best_kernels(summary))),
        html.Section("Between baseline and speed of light", list(_rooflines(summary))),
        html.Section("Verification", list(_verification(summary))),
        html.Section("Where the time went", [_seconds_table(summary)]),
        html.Section("Last evaluations", [_last_table(rows)]),
    ]
    return html.page(title, sections, "; ".join([*about, *([note] if note else [])]))


def outcome_label(outcome: str) -> html.Markup:
    """An outcome's name beside its colour."""
    colour = figures.OUTCOME_COLOURS.get(outcome, "#888888")
    return html.Markup(f'<span class="whole"><span class="swatch" style="background:{colour}"></span>{html.escape(outcome)}</span>')


def _outcome_table(summary: RunSummary) -> html.Markup:
    rows = []
    for outcome, count in summary.outcomes.items():
        score = mean(row.score for row in summary.rows if row.outcome == outcome)
        rows.append((outcome_label(outcome), f"{count:,}", f"{count / len(summary.rows):.1%}", _signed(score)))
    return html.table(("outcome", "evaluations", "share", "mean score"), rows, "lrrr")


def _run_table(summary: RunSummary, preset: str) -> Iterator[html.Markup]:
    runs = summary.runs
    if len(runs) < 2:
        return
    yield html.heading("Runs")
    lines = []
    for name, rows in runs.items():
        speedups = finite(row.speedup for row in rows if row.outcome == Outcome.ACCEPTED)
        accepted, steps = sum(row.outcome == Outcome.ACCEPTED for row in rows), [row.step for row in rows]
        lines.append((
            name or html.styled("without a name", "dim"), f"{len(rows):,}", f"{accepted:,}", _signed(mean(row.score for row in rows)),
            _times(max(speedups, default=None)), f"{min(steps):,} to {max(steps):,}", _minute(rows[0].created),
        ))
    header = ("run", "evaluations", "accepted", f"mean score ({preset})", "best speedup", "policy steps", "began")
    yield html.table(header, lines, "lrrrrr")


def _best_kernels(summary: RunSummary) -> Iterator[html.Markup]:
    found = list(summary.tasks)
    yield html.table(
        ("task", "device", "evaluations", "accepted", "first accepted at", "best at", "speedup", "95 % interval", "score"),
        [_best_row(run) for run in found], "wlrrrrrrr",
    )
    for run in found[:_SHOWN_TASKS]:
        if run.best is not None:
            yield _kernel_details(run, run.best)
    if len(found) > _SHOWN_TASKS:
        yield html.paragraph(f"The code of {len(found) - _SHOWN_TASKS} more tasks is left out.")


def _best_row(run: TaskRun) -> tuple[object, ...]:
    count, accepted = run.outcomes.total(), run.outcomes[Outcome.ACCEPTED]
    if run.best is None or run.first is None:
        return run.task, run.device, f"{count:,}", f"{accepted:,}", html.styled("none was accepted", "dim"), "", "", "", ""
    speedup = run.best.evaluation.speedup
    interval = f"{speedup.low:.3g} to {speedup.high:.3g}" if speedup else ""
    estimate = _times(speedup.estimate) if speedup else html.styled("not timed", "dim")
    return (
        run.task, run.device, f"{count:,}", f"{accepted:,}", f"no. {run.first.number:,}", f"no. {run.best.number:,}", estimate, interval,
        _signed(run.best.reward.total),
    )


def _kernel_details(run: TaskRun, best: Kernel) -> html.Markup:
    source, language = best.evaluation.code, best.evaluation.language
    title = f"{run.task} on {run.device}: code of no. {best.number:,} ({language}, {len(source.splitlines()):,} lines)"
    cut = [html.paragraph("The rest is left out.")] if len(source) > _CODE_CHARS else []
    report = html.details("its report", html.code(plain_report(best.evaluation, best.reward)))
    return html.details(title, html.code(source[:_CODE_CHARS]), *cut, report)


def _rooflines(summary: RunSummary) -> Iterator[html.Markup]:
    drawn = [block for run in itertools.islice(summary.tasks, _SHOWN_TASKS) for block in roofline(run)]
    if not drawn:
        yield html.Markup('<p class="empty">No accepted kernel was timed.</p>')
        return
    yield html.paragraph(
        "Time per call of each workload. The grey bar reaches from the speed of light, the time that this host's measured rates allow, to "
        "the best baseline: what lies left of the baseline is faster than production. What lies left of the speed of light did better than "
        "those rates; its data may have been in a cache."
    )
    yield from drawn


def _verification(summary: RunSummary) -> Iterator[html.Markup]:
    lines = summary.matrix()
    if not lines:
        yield html.Markup('<p class="empty">No check was recorded.</p>')
        return
    total = len(summary.rows)
    sums = [sum(cells.values(), Counter[str]()) for _, _, cells in lines]
    statuses = [*(status.value for status in Status), NOT_REACHED]
    shares = {status: [line[status] / total for line in sums] for status in statuses}
    yield html.figure(
        figures.bars(
            [f"{stage}: {name}" for stage, name, _ in lines], shares, title="Share of evaluations", stacked=True, horizontal=True,
            numbers="{:.0%}", colours={**figures.SHARE_COLOURS, NOT_REACHED: "#9aa2ab40"},
        ),
        "Only passed is evidence. A check that was not run says nothing; one was not reached where the evaluation ended before it.",
    )
    yield html.heading("Checks by outcome")
    yield html.paragraph(html.join(
        "How many evaluations ", html.styled("\u2713 passed", "good"), " a check, ", html.styled("\u2717 failed", "bad"), " it, or did ",
        html.styled("\u25cb not run", "dim"), " it. An empty place: none of that outcome reached it.",
    ))
    outcomes = list(summary.outcomes)
    rows = [(stage, name, *(_cell(cells[outcome]) for outcome in outcomes)) for stage, name, cells in lines]
    yield html.table(("stage", "check", *(outcome.replace("_", " ") for outcome in outcomes)), rows)


def _cell(statuses: Counter[str]) -> html.Markup:
    marks = [html.styled(f"{mark}\u00a0{statuses[status]:,}", style) for status, (mark, style) in _MARKS.items() if statuses[status]]
    return html.Markup("<br>".join(marks))


def _seconds_table(summary: RunSummary) -> html.Markup:
    count = len(summary.rows)
    names = [name for name in (*Stage, "total", *summary.seconds) if name in summary.seconds]
    rows = [(name, f"{summary.seconds[name]:,.1f}", f"{summary.seconds[name] / count:.2f}") for name in dict.fromkeys(map(str, names))]
    return html.table(("stage", "seconds in all", "per evaluation"), rows, "lrr", empty="No times were recorded.")


def _last_table(rows: Sequence[Row]) -> html.Markup:
    first = max(len(rows) - LAST, 0) + 1
    lines = [
        (
            f"{number:,}", f"{row.step:,}", f"{row.turn:,}", row.task, outcome_label(row.outcome), _signed(row.score), _times(row.speedup),
            html.join(html.styled(f"{row.decided_by}: ", "dim") if row.decided_by else "", row.reason),
        )
        for number, row in enumerate(rows[-LAST:], first)
    ]
    header = ("no.", "policy step", "turn", "task", "outcome", "score", "speedup", "reason")
    return html.table(header, reversed(lines), "rrrllrrw")


def _signed(value: float | None) -> object:
    return html.styled("none", "dim") if value is None else f"{value:+.3f}"


def _minute(created: str) -> str:
    """A record's time without seconds: what stands in UTC as 2026-11-22T15:00:00Z."""
    return created[:16].replace("T", " ")


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}x"
