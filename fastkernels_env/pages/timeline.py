"""What was tried when: outcomes, scores and the best speedup so far, over the policy's steps or in the order of the log."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence

from ..types import Outcome
from . import figures, html
from .run_summary import Row, finite, mean

BINS = 40
"""Bars of a timeline, at most."""
POINTS = 600
"""Evaluations that are drawn one by one; more are summed up by bin."""


def timeline(rows: Sequence[Row]) -> Iterator[html.Markup]:
    """Figures of a run's course."""
    by_step = len({row.step for row in rows}) > 1
    what = "policy step" if by_step else "evaluation"
    places = [row.step if by_step else number for number, row in enumerate(rows, 1)]
    yield _outcomes(rows, places, what)
    yield _scores(rows, places, what)
    yield from _best(rows, places, what)


def _bins(places: Sequence[int]) -> list[tuple[int, list[int]]]:
    """The first place of each of at most `BINS` equal ranges, and the indices of the rows in it."""
    first, last = min(places), max(places)
    width = max(math.ceil((last - first + 1) / BINS), 1)
    bins = [(start, list[int]()) for start in range(first, last + 1, width)]
    for index, place in enumerate(places):
        bins[(place - first) // width][1].append(index)
    return bins


def _outcomes(rows: Sequence[Row], places: Sequence[int], what: str) -> html.Markup:
    bins = _bins(places)
    counts = [Counter(rows[index].outcome for index in members) for _, members in bins]
    names = [outcome.value for outcome in Outcome if any(count[outcome.value] for count in counts)]
    every = max(math.ceil(len(bins) / 10), 1)
    labels = [f"{start:,}" if index % every == 0 else "" for index, (start, _) in enumerate(bins)]
    return html.figure(figures.bars(
        labels, {name: [count[name] for count in counts] for name in names}, title="Evaluations by outcome", x_label=what, stacked=True,
        y_label="evaluations", colours=figures.OUTCOME_COLOURS,
    ))


def _scores(rows: Sequence[Row], places: Sequence[int], what: str) -> html.Markup:
    if len(rows) <= POINTS:
        groups: dict[str, tuple[list[int], list[float]]] = {outcome.value: ([], []) for outcome in Outcome}
        for place, row in zip(places, rows, strict=True):
            if row.score is not None:
                groups[row.outcome][0].append(place)
                groups[row.outcome][1].append(row.score)
        groups = {name: both for name, both in groups.items() if both[0]}
        return html.figure(
            figures.points(groups, title="Score of each evaluation", x_label=what, y_label="score", colours=figures.OUTCOME_COLOURS)
        )
    bins = _score_bins(rows, places)
    curve = figures.Curve(
        "mean score", [start for start, _ in bins], [mean(scores) for _, scores in bins], [_quantile(scores, 0.25) for _, scores in bins],
        [_quantile(scores, 0.75) for _, scores in bins],
    )
    return html.figure(
        figures.lines([curve], title="Mean score", x_label=what, y_label="score"), "The band holds the middle half of the scores."
    )


def _score_bins(rows: Sequence[Row], places: Sequence[int]) -> list[tuple[int, list[float]]]:
    """The scores of each range of places, sorted. Ranges without any are left out: a curve goes on over them."""
    bins = [(start, sorted(finite(rows[index].score for index in members))) for start, members in _bins(places)]
    return [(start, scores) for start, scores in bins if scores]


def _best(rows: Sequence[Row], places: Sequence[int], what: str) -> Iterator[html.Markup]:
    """The highest speedup of an accepted kernel so far, by task."""
    found: dict[str, list[tuple[int, float]]] = {}
    for place, row in sorted(zip(places, rows, strict=True), key=lambda pair: pair[0]):
        if row.outcome == Outcome.ACCEPTED and row.speedup is not None and math.isfinite(row.speedup):
            found.setdefault(row.task, []).append((place, row.speedup))
    if not found:
        return
    last, curves = max(places), []
    for task, course in itertools.islice(found.items(), len(figures.COLOURS)):
        steps = course[:1]
        for place, value in course:
            if value > steps[-1][1]:
                steps.append((place, value))
        steps.append((last, steps[-1][1]))
        curves.append(figures.Curve(task, [place for place, _ in steps], [value for _, value in steps]))
    more = f" Of {len(found)} tasks the first {len(curves)} are drawn." if len(found) > len(curves) else ""
    yield html.figure(
        figures.lines(curves, title="Best speedup so far", x_label=what, y_label="times the best baseline", steps=True),
        f"Of accepted kernels; 1 is as fast as the best baseline.{more}",
    )


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else None
