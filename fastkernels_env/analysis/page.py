"""The page of an ablation: what each preset pays for, where presets disagree, how runs went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from ..pages import figures
from ..pages.html import Section, details, figure, page, paragraph, styled, table
from ..reward import Grade
from ..types import Outcome
from .ablation import Ablation, Verdict
from .groups import Lead
from .statistics import moments
from .tables import TABLES, parquet_installed

_MOST_CURVES = 8
"""Runs that are drawn one by one; more are drawn as their mean and range."""
_LEAD_COLOURS = {"decided": "#3fa66b", "lottery": "#d9b23a", "tied": "#e08a2c", "flat": "#8f9aa5"}
_UNSOUND_NAMES = ("silent errors", "cheats", "stack conflicts")
"""Of `UNSOUND`, in its order."""


def ablation_page(ablation: Ablation, sources: Sequence[str]) -> str:
    """The page as an HTML document.

    Args:
        ablation: What was found.
        sources: Names of the logs.

    Raises:
        Problem: matplotlib is not installed.
    """
    faults = f"{ablation.faults:,} of them are faults of the judge" if ablation.faults else "none of them is a fault of the judge"
    note = f"{len(ablation.samples):,} records of {', '.join(sources)}; {faults}. Faults have no reward and are left out."
    sections = [
        Section("Rewards", _rewards(ablation)),
        Section("Would it pay for what production refuses?", _verdicts(ablation)),
        Section("Reward by outcome", _grades(ablation)),
        Section("Rank correlation", _correlations(ablation)),
        Section("Groups", _groups(ablation)),
        Section("Learning curves", _curves(ablation)),
        Section("Files", _files()),
    ]
    return page("Reward presets compared", sections, note)


def _rewards(ablation: Ablation) -> list[str]:
    counts = Counter(sample.outcome for sample in ablation.samples)
    total = len(ablation.samples)
    outcomes = [(outcome.value, f"{counts[outcome]:,}", _share(counts[outcome] / total)) for outcome in Outcome if counts[outcome]]
    rows = []
    for name in ablation.presets:
        found = ablation.rewards[name]
        rows.append((name, _number(found.mean), _number(found.spread), _number(found.low), _number(found.high), ablation.summaries[name]))
    return [
        table(("preset", "mean", "spread", "min", "max", "what it pays for"), rows, "lrrrrw"),
        paragraph("Spread is the standard deviation over all records that are no faults. The records by outcome:"),
        table(("outcome", "records", "share"), outcomes, "lrr"),
    ]


def _verdicts(ablation: Ablation) -> list[str]:
    verdicts = [[verdict for verdict in ablation.verdicts if verdict.preset == preset] for preset in ablation.presets]
    first = [
        (preset, _answer(found), *(_paid(verdict, verdict.at_least_parity) for verdict in found))
        for preset, found in zip(ablation.presets, verdicts, strict=True)
    ]
    more = [
        (preset, *(cell for verdict in found for cell in (_paid(verdict, verdict.above_parity), _paid(verdict, verdict.above_loud))))
        for preset, found in zip(ablation.presets, verdicts, strict=True)
    ]
    return [
        paragraph(
            "How many silent errors, cheats and stack conflicts are paid no less than an honest reply in their place: the same record, "
            "had the kernel been right and exactly as fast as the best baseline (parity). A policy has no reason to avoid what is paid "
            "like that."
        ),
        table(("preset", "pays for", *_UNSOUND_NAMES), first, "lwrrr"),
        details(
            "Paid more than parity, and paid more than loud failure",
            paragraph(
                "Loud: the same record, had the reply failed the loose test (smoke). That a stack conflict is worth more than a wrong "
                "kernel is no mistake: its numbers are right."
            ),
            table(("preset", *(f"{name}: {than}" for name in _UNSOUND_NAMES for than in ("> parity", "> loud"))), more, "lrrrrrr"),
        ),
    ]


def _answer(verdicts: Sequence[Verdict]) -> str:
    """Which of them a preset pays for, in words."""
    names = [name for name, verdict in zip(_UNSOUND_NAMES, verdicts, strict=True) if verdict.at_least_parity]
    if names:
        return styled(", ".join(names), "bad")
    return styled("none of them", "good") if any(verdict.count for verdict in verdicts) else styled("no such record", "dim")


def _grades(ablation: Ablation) -> list[str]:
    means = {(found.preset, found.grade): found.rewards.mean for found in ablation.grades}
    counts = {found.grade: found.rewards.count for found in ablation.grades}
    grades = [grade for grade in Grade if grade in counts]
    if not grades:
        return [_nothing("No record has a reward.")]
    values = [[means[preset, grade] for grade in grades] for preset in ablation.presets]
    reach = min(2.0, max(1.0, *(abs(value) for row in values for value in row if value is not None)))
    picture = figures.heatmap(
        ablation.presets, [f"{grade.value} ({counts[grade]:,})" for grade in grades], values, title="Mean reward by grade",
        x_label="grade (records)", y_label="preset", low=-reach, high=reach, diverging=True,
    )
    caption = "Accepted: slower, at parity or faster by where the interval of the speedup lies. Spread and extremes: outcomes.csv."
    return [figure(picture, caption)]


def _correlations(ablation: Ablation) -> list[str]:
    if len(ablation.presets) < 2:
        return [_nothing("One preset has nothing to agree with.")]
    blocks: list[str] = []
    for name, title in (("spearman", "Spearman's rank correlation"), ("kendall", "Kendall's tau-b")):
        found = {frozenset((pair.first, pair.second)): getattr(pair, name) for pair in ablation.correlations}
        values = [[1.0 if a == b else found[frozenset((a, b))] for b in ablation.presets] for a in ablation.presets]
        blocks.append(figure(figures.heatmap(ablation.presets, ablation.presets, values, title=title, low=-1.0, high=1.0, diverging=True)))
    blocks.append(paragraph(
        "Over all records that are no faults; 1 means that two presets rank them alike. A dash: one of the two pays the same for all."
    ))
    return blocks


def _groups(ablation: Ablation) -> list[str]:
    summaries = ablation.group_summaries
    if not summaries[0].groups:
        return [_nothing("No two records belong to one group.")]
    shares = {lead.value: [getattr(summary, lead.value) for summary in summaries] for lead in reversed(Lead)}
    picture = figures.bars(
        [summary.preset for summary in summaries], shares, title="How sure the best reply of a group is", x_label="share of groups",
        stacked=True, horizontal=True, numbers="{:.0%}", colours=_LEAD_COLOURS,
    )
    rows = [
        (s.preset, _share(s.flat), _share(s.decided), _share(s.flip), f"{_share(s.misled)} of {s.contested:,}" if s.contested else "\u2013")
        for s in summaries
    ]
    return [
        paragraph(
            f"{summaries[0].groups:,} groups of two replies or more: the same task, run, policy step, turn, and group; where no group was "
            "recorded, the same prompt."
        ),
        figure(picture),
        table(("preset", "zero variance", "decided", "best reply flips", "best reply is unsound"), rows, "lrrrr"),
        paragraph(
            "Decided: the best reply stays ahead even if its kernel is as slow as the 95 % interval of its speedup allows and its rivals' "
            "are as fast as theirs allow. Lottery: it need not. Tied: several replies share the highest reward. Flat: all do (zero "
            f"variance). Flips: chance that the best reply is none of those that {ablation.presets[0]} calls best. Unsound: chance that "
            "the best reply is a silent error, a stack conflict or a cheat, in groups that hold an accepted reply and an unsound one."
        ),
    ]


def _curves(ablation: Ablation) -> list[str]:
    points = [point for point in ablation.curves if point.preset == ablation.presets[0]]
    if len({point.policy_step for point in points}) < 2:
        return [_nothing("The records name no run of two policy steps or more.")]
    blocks: list[str] = []
    for preset in ablation.presets:
        values = {(point.run, point.policy_step): point.mean for point in ablation.curves if point.preset == preset}
        blocks.append(_curve_figure(values, f"Mean reward under {preset}", "mean reward"))
    accepted, unsound = ({(p.run, p.policy_step): getattr(p, name) for p in points} for name in ("accepted", "unsound"))
    blocks.append(_curve_figure(accepted, "Accepted", "share of records"))
    blocks.append(_curve_figure(unsound, "Silent errors, stack conflicts and cheats", "share of records"))
    return blocks


def _curve_figure(values: dict[tuple[str, int], float], title: str, y_label: str) -> str:
    """A curve per run; of many runs their mean, with the range of the runs that have that step."""
    runs = sorted({run for run, _ in values})
    if len(runs) <= _MOST_CURVES:
        curves = [figures.Curve(run, *_columns((step, value) for (one, step), value in values.items() if one == run)) for run in runs]
        return figure(figures.lines(curves, title=title, x_label="policy step", y_label=y_label))
    steps = sorted({step for _, step in values})
    found = [moments(values[run, step] for run in runs if (run, step) in values) for step in steps]
    curve = figures.Curve("mean", steps, [one.mean for one in found], [one.low for one in found], [one.high for one in found])
    return figure(
        figures.lines([curve], title=title, x_label="policy step", y_label=y_label),
        f"Mean of {len(runs)} runs, and the range from the lowest to the highest of them. One by one: curves.csv.",
    )


def _columns(points: Iterable[tuple[int, float]]) -> tuple[list[int], list[float]]:
    pairs = sorted(points)
    return [step for step, _ in pairs], [value for _, value in pairs]


def _files() -> list[str]:
    rows = [(f"{name}.csv", (make.__doc__ or "").strip()) for name, make in TABLES.items()]
    if parquet_installed():
        rows.append(("records.parquet", "records.csv with typed columns."))
    return [paragraph("Beside this page:"), table(("file", "rows"), rows)]


def _paid(verdict: Verdict, count: int) -> str:
    return f"{count:,} of {verdict.count:,}" if verdict.count else "\u2013"


def _nothing(text: str) -> str:
    return paragraph(styled(text, "dim"))


def _number(value: float | None) -> str:
    return "\u2013" if value is None else f"{value:.3f}"


def _share(value: float | None) -> str:
    return "\u2013" if value is None else f"{value:.0%}"
