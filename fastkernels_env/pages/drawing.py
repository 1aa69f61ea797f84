"""What all figures share: matplotlib set up for one figure, colours, labels, and the SVG element that comes out.

Lettering is drawn as outlines, so that a figure looks the same wherever it is opened. Lines and letters take the colour of the text
around the figure (``currentColor``), which suits light and dark pages.
"""

from __future__ import annotations

import functools
import html
import io
import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ParamSpec

from .._terminal import Problem

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Number = float | int | None
_Arguments = ParamSpec("_Arguments")

COLOURS = ("#4384c7", "#e08a2c", "#3fa66b", "#c9504e", "#8f74c4", "#9a7560", "#d678b0", "#7f8790", "#a9a23a", "#35a9b8")
"""Of series, in order; readable on white and on black."""
OUTCOME_COLOURS = {
    "accepted": "#3fa66b", "unmeasured": "#35a9b8", "stack_conflict": "#d9b23a", "wrong": "#e08a2c", "timed_out": "#b98a5a",
    "crashed": "#9a7560", "build_failed": "#8f9aa5", "rejected": "#6b747d", "silent_error": "#c262b5", "tampered": "#d03c3c",
    "fault": "#4f6bd0",
}
"""By outcome, the same on every page."""
SHARE_COLOURS = {"passed": "#3fa66b", "failed": "#d03c3c", "not_run": "#9aa2ab"}
"""By status of a check."""

INK, FAINT = "#010203", "#010204"  # stand for the page's own colours until the figure is written
_STYLE = {
    "svg.fonttype": "path", "svg.hashsalt": "fastkernels-env", "text.parse_math": False, "font.family": "DejaVu Sans", "font.size": 9,
    "axes.edgecolor": INK, "axes.labelcolor": INK, "axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "axes.linewidth": 0.7, "grid.color": FAINT,
    "grid.linewidth": 0.6, "grid.alpha": 0.22, "legend.frameon": False, "legend.fontsize": 8.5, "text.color": INK,
    "xtick.color": INK, "ytick.color": INK, "xtick.labelsize": 8.5, "ytick.labelsize": 8.5, "axes.unicode_minus": True,
}
_WIDTH = 8.6
"""Inches; 96 pixels of a screen each."""


def drawing(function: Callable[_Arguments, str]) -> Callable[_Arguments, str]:
    """A function that draws, with matplotlib set up for it alone."""

    @functools.wraps(function)
    def draw(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> str:
        try:
            import matplotlib
        except ImportError as error:
            raise Problem(
                f"figures need matplotlib, which cannot be imported ({error}); install it: pip install 'fastkernels-env[plots]'"
            ) from error
        with matplotlib.rc_context(_STYLE), warnings.catch_warnings():  # type: ignore[arg-type]
            warnings.simplefilter("ignore")  # a character that the font lacks
            return function(*args, **kwargs)

    return draw


def start(title: str, x_label: str, y_label: str, height: float) -> tuple[Figure, Axes]:
    """A figure of that height, in inches, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained", facecolor="none")
    axes = figure.add_subplot(facecolor="none")
    axes.set_title(plain(title))
    axes.set_xlabel(plain(x_label))
    axes.set_ylabel(plain(y_label))
    return figure, axes


def finish(figure: Figure, title: str) -> str:
    """A figure as an SVG element, without what only a file of its own needs."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}, transparent=True)
    svg = file.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg[svg.index("<svg"):], flags=re.DOTALL)
    svg = svg.replace(INK, "currentColor").replace(FAINT, "currentColor").replace("xlink:href", "href")
    size = " ".join(f'{name}="{float(re.search(rf" {name}=.([0-9.]+)pt", svg)[1]) * 4 / 3:.0f}"' for name in ("width", "height"))  # type: ignore[index]
    box = re.search(r'viewBox="[^"]*"', svg)[0]  # type: ignore[index]
    label = html.escape(plain(title) or "figure")
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {box} role="img" aria-label="{label}">'
    return re.sub(r"\n\s*", "\n", head + svg[svg.index(">") + 1 :]).strip()


def set_labels(axes: Axes, labels: Sequence[str], horizontal: bool) -> None:
    """Write the places of an axis, tilted where they would not fit."""
    words = [plain(label) for label in labels]
    if horizontal:
        axes.set_yticks(range(len(words)), words)
    else:
        tilted = crowded(labels)
        axes.set_xticks(range(len(words)), words, rotation=30 if tilted else 0, ha="right" if tilted else "center", rotation_mode="anchor")


def log_scale(axes: Axes, vertical: bool, values: Iterable[float]) -> None:
    """Make an axis logarithmic, with numbers as they are spoken, not powers of ten; not where no value is above zero."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if not any(value > 0 for value in values):
        return
    (axes.set_yscale if vertical else axes.set_xscale)("log")
    axis = axes.yaxis if vertical else axes.xaxis
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / max(low, 1e-300) < 300 else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())


def crowded(labels: Sequence[str]) -> bool:
    """Whether labels do not fit side by side."""
    return max(map(len, labels), default=0) * sum(map(bool, labels)) > 95


def add_legend(figure: Figure, axes: Axes, count: int, always: bool = False) -> None:
    """A legend above the axes, for more than one name unless `always`."""
    if count > 1 or (always and count):
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=min(count, 6))


def colour_of(name: str, index: int, colours: Mapping[str, str] | None) -> str:
    """The colour of a series: its own, or the next in order."""
    return (colours or {}).get(name, COLOURS[index % len(COLOURS)])


def finite(value: Number) -> float:
    """A number to draw; NaN, which is left out, for what is none."""
    return float(value) if value is not None and math.isfinite(value) else math.nan


def finite_values(values: Iterable[Number], log: bool = False) -> list[float]:
    """Numbers to draw; on a logarithmic axis NaN, too, for what is not above zero."""
    return [math.nan if log and value <= 0 else value for value in map(finite, values)]


def plain(text: str) -> str:
    """A label on one line, without control characters, cut where no figure has room for more."""
    words = "".join(char if char.isprintable() else " " for char in text)
    return words if len(words) <= 60 else words[:59] + "\u2026"
