"""Figures: plain data in, an SVG element for a page out. matplotlib is imported when the first one is drawn.

A value that is None or not finite is left out, and so is one that is not above zero on a logarithmic axis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .drawing import (
    COLOURS,
    FAINT,
    INK,
    OUTCOME_COLOURS,
    SHARE_COLOURS,
    Number,
    add_legend,
    colour_of,
    crowded,
    drawing,
    finish,
    finite_values,
    log_scale,
    plain,
    set_labels,
    start,
)

__all__ = ["COLOURS", "OUTCOME_COLOURS", "SHARE_COLOURS", "Curve", "Number", "Range", "bars", "heatmap", "lines", "points", "ranges"]


class Curve(NamedTuple):
    """A line over points. `low` and `high`, if given, are the ends of an interval around each `y`."""

    label: str
    x: Sequence[Number]
    y: Sequence[Number]
    low: Sequence[Number] = ()
    high: Sequence[Number] = ()


class Range(NamedTuple):
    """A bar from `low` to `high` on one line, and marks on it by name."""

    label: str
    low: Number
    high: Number
    marks: Mapping[str, Number] = {}


@drawing
def bars(
    labels: Sequence[str], series: Mapping[str, Sequence[Number]], *, title: str = "", x_label: str = "", y_label: str = "",
    stacked: bool = False, horizontal: bool = False, numbers: str = "", colours: Mapping[str, str] | None = None,
) -> str:
    """Bars, side by side or stacked.

    Args:
        labels: Of the places on the axis.
        series: Values at each place, by name.
        title: Of the figure.
        x_label: Of the horizontal axis.
        y_label: Of the vertical axis.
        stacked: One upon the other.
        horizontal: Lying, from the top down: for long labels.
        numbers: Format of the values that are written at the bars, such as ``{:.0%}``; empty: none.
        colours: By name of the series; one such as ``#9aa2ab40`` lets the page shine through.

    Returns:
        An SVG element.

    Raises:
        Problem: matplotlib is not installed.
    """
    count, names = len(labels), list(series)
    figure, axes = start(title, x_label, y_label, 0.9 + 0.24 * count * (1 if stacked else max(len(names), 1)) if horizontal else 3.2)
    draw, thick = (axes.barh, "height") if horizontal else (axes.bar, "width")
    size = 0.75 if stacked else 0.8 / max(len(names), 1)
    bottom = [0.0] * count
    for index, name in enumerate(names):
        values = finite_values(series[name])
        shift = 0.0 if stacked else (index - (len(names) - 1) / 2) * size
        heights = [0.0 if math.isnan(value) else value for value in values]
        options: dict[str, Any] = {thick: size, "left" if horizontal else "bottom": list(bottom) if stacked else None}
        colour = colour_of(name, index, colours)
        drawn = draw([place + shift for place in range(count)], heights, color=colour, label=plain(name), **options)
        if stacked:
            bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
        if numbers:
            least = 0.04 * max(map(abs, bottom), default=0.0) if stacked else 0.0  # room for a number inside of its bar
            words = ["" if math.isnan(value) or (stacked and abs(value) <= least) else numbers.format(value) for value in values]
            ink = INK if len(colour) > len("#rrggbb") else "#111111"  # one that lets the page shine through
            inside: dict[str, Any] = {"label_type": "center", "color": ink} if stacked else {"label_type": "edge", "padding": 2}
            axes.bar_label(drawn, words, fontsize=8, **inside)
    set_labels(axes, labels, horizontal)
    axes.grid(axis="x" if horizontal else "y")
    if horizontal:
        axes.set_ylim(count - 0.4, -0.6)
    if numbers and not stacked:
        axes.margins(x=0.12 if horizontal else None, y=None if horizontal else 0.12)
    add_legend(figure, axes, len(names))
    return finish(figure, title)


@drawing
def lines(
    curves: Sequence[Curve], *, title: str = "", x_label: str = "", y_label: str = "", log_y: bool = False,
    steps: bool = False, colours: Mapping[str, str] | None = None,
) -> str:
    """Curves, with a band where they have an interval; `steps` holds each value until the next. Returns and raises as `bars`."""
    figure, axes = start(title, x_label, y_label, 3.6)
    drawn: list[float] = []
    for index, curve in enumerate(curves):
        colour = colour_of(curve.label, index, colours)
        x, y = finite_values(curve.x), finite_values(curve.y, log_y)
        drawn += y
        axes.plot(x, y, color=colour, label=plain(curve.label), linewidth=1.6, marker="o" if len(x) < 3 else None,
                  drawstyle="steps-post" if steps else "default")
        if curve.low and curve.high:
            low, high = (finite_values(ends, log_y) for ends in (curve.low, curve.high))
            axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
    if log_y:
        log_scale(axes, True, drawn)
    axes.grid()
    add_legend(figure, axes, len(curves))
    return finish(figure, title)


@drawing
def points(
    groups: Mapping[str, tuple[Sequence[Number], Sequence[Number]]], *, title: str = "", x_label: str = "", y_label: str = "",
    colours: Mapping[str, str] | None = None,
) -> str:
    """Points by group, each with its `x` and `y`. Returns and raises as `bars`."""
    figure, axes = start(title, x_label, y_label, 3.6)
    for index, (name, (x, y)) in enumerate(groups.items()):
        colour = colour_of(name, index, colours)
        axes.plot(finite_values(x), finite_values(y), "o", color=colour, label=plain(name), markersize=5, alpha=0.8, markeredgewidth=0)
    axes.grid()
    add_legend(figure, axes, len(groups), always=True)
    return finish(figure, title)


@drawing
def heatmap(
    rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[Number]], *, title: str = "", x_label: str = "",
    y_label: str = "", low: float = 0.0, high: float = 1.0, numbers: str = "{:.2f}", diverging: bool = False,
) -> str:
    """A matrix of numbers, coloured by their size. A place without a value stays empty, with a dash.

    Args:
        rows: Labels from the top down.
        columns: Labels from left to right.
        values: By row and column.
        title: Of the figure.
        x_label: Of the columns.
        y_label: Of the rows.
        low: Value of the first colour.
        high: Value of the last colour.
        numbers: Format of the values.
        diverging: From one colour over white to another, not from light to dark.

    Returns:
        An SVG element.

    Raises:
        Problem: matplotlib is not installed.
    """
    from matplotlib import colormaps

    figure, axes = start(title, x_label, y_label, 1.5 + 0.3 * len(rows))
    data = [finite_values(row) for row in values]
    if rows and columns:
        shades = colormaps["RdBu" if diverging else "YlGnBu"]
        axes.imshow(data, cmap=shades, vmin=low, vmax=high, aspect="auto", interpolation="nearest")
        for y, row in enumerate(data):
            for x, value in enumerate(row):
                missing = math.isnan(value)
                red, green, blue, _ = shades(0.0 if missing else (value - low) / (high - low))
                ink = INK if missing else "#ffffff" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.55 else "#111111"
                axes.text(x, y, "\u2013" if missing else numbers.format(value), ha="center", va="center", color=ink, fontsize=8)
    axes.set_xticks(range(len(columns)), [plain(name) for name in columns], rotation=30 if crowded(columns) else 0,
                    ha="right" if crowded(columns) else "center", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), [plain(name) for name in rows])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return finish(figure, title)


@drawing
def ranges(
    rows: Sequence[Range], *, title: str = "", x_label: str = "", y_label: str = "", log_x: bool = False,
    colours: Mapping[str, str] | None = None,
) -> str:
    """Bars between two values, one upon the other, with marks: intervals, or where a value lies between two others.

    Marks of one name share a colour and stand in the legend. Returns and raises as `bars`.
    """
    figure, axes = start(title, x_label, y_label, 1.2 + 0.3 * len(rows))
    names = list(dict.fromkeys(name for row in rows for name in row.marks))
    drawn: list[float] = []
    for place, row in enumerate(rows):
        low, high = finite_values((row.low, row.high), log_x)
        if not (math.isnan(low) or math.isnan(high)):
            axes.plot([low, high], [place, place], color=FAINT, alpha=0.3, linewidth=7, solid_capstyle="butt")
            drawn += low, high
    for index, name in enumerate(names):
        x = finite_values((row.marks.get(name) for row in rows), log_x)
        drawn += x
        shape = "oDs^vPX*"[index % 8]
        axes.plot(x, range(len(rows)), shape, color=colour_of(name, index, colours), label=plain(name), markersize=6)
    if log_x:
        log_scale(axes, False, drawn)
    axes.grid(axis="x")
    axes.set_yticks(range(len(rows)), [plain(row.label) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    add_legend(figure, axes, len(names), always=True)
    return finish(figure, title)
