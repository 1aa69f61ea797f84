"""Figures of plain data are whole SVG elements, whatever the data."""

import math
import sys
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastkernels_env._terminal import Problem
from fastkernels_env.pages import figures
from fastkernels_env.pages.figures import Curve, Range

label = st.text(max_size=12)
number = st.none() | st.floats(-1e9, 1e9) | st.sampled_from([math.nan, math.inf, -math.inf, 0.0])
few = settings(max_examples=8)


def columns(count):
    return st.lists(number, min_size=count, max_size=count)


def parse(svg):
    assert svg.startswith("<svg")
    root = ET.fromstring(svg)
    assert float(root.get("width")) > 100
    assert float(root.get("height")) > 50
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "").replace("http://www.w3.org/1999/xlink", "")
    assert "nan" not in svg
    return root


@few
@given(st.lists(label, max_size=4), st.data(), st.booleans(), st.booleans())
def test_bars_of_anything(names, data, stacked, horizontal):
    series = data.draw(st.dictionaries(label, columns(len(names)), max_size=3))
    parse(figures.bars(names, series, title="t", stacked=stacked, horizontal=horizontal, numbers="{:.1f}"))


@few
@given(st.lists(st.tuples(label, columns(4)), max_size=3), st.booleans())
def test_lines_and_points_of_anything(curves, log_y):
    parse(figures.lines([Curve(name, range(4), y, y, y) for name, y in curves], title="$x_$", log_y=log_y))
    parse(figures.points({name: (range(4), y) for name, y in curves}))


@few
@given(st.lists(label, max_size=3), st.data(), st.booleans())
def test_heatmaps_of_anything(names, data, diverging):
    values = [data.draw(columns(len(names))) for _ in names]
    parse(figures.heatmap(names, names, values, title="t", diverging=diverging))


@few
@given(st.lists(st.builds(Range, label, number, number, st.dictionaries(label, number, max_size=3)), max_size=3), st.booleans())
def test_ranges_of_anything(rows, log_x):
    parse(figures.ranges(rows, log_x=log_x))


def test_what_is_not_finite_is_left_out():
    missing, odd, zero = (figures.bars(["a", "b"], {"s": [1.0, value]}, numbers="{:.0f}") for value in (None, math.nan, 0.0))
    assert missing == odd != zero
    whole, gap = (figures.lines([Curve("s", range(5), [1, 2, value, 2, 1])]) for value in (3, None))
    strokes = [max(path.get("d").count("M") for path in parse(svg).iter("{http://www.w3.org/2000/svg}path") if "clip-path" in path.attrib)
               for svg in (whole, gap)]
    assert strokes == [1, 2]


def test_a_logarithmic_axis_leaves_out_what_is_not_above_zero():
    missing, zero, negative = (figures.lines([Curve("s", range(3), [1.0, value, 10.0])], log_y=True) for value in (None, 0.0, -1.0))
    assert missing == zero == negative
    for values in ([], [None], [-1.0]):
        parse(figures.lines([Curve("s", range(len(values)), values)], log_y=True))
        parse(figures.ranges([Range("r", None, None, {"m": value}) for value in values], log_x=True))


def test_the_pages_colours_are_taken_over():
    svg = figures.lines([Curve("a", [1, 2], [1, 2])], title="t")
    assert "currentColor" in svg
    assert "#010203" not in svg
    assert 'role="img" aria-label="t"' in svg


def test_the_same_data_gives_the_same_figure():
    first, second = (figures.lines([Curve("a", [1, 2], [1, 2], [0, 1], [2, 3])], title="t") for _ in range(2))
    assert first == second


def test_without_matplotlib_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(Problem, match=r"pip install 'fastkernels-env\[plots\]'"):
        figures.lines([])


def test_every_outcome_and_status_has_a_colour():
    from fastkernels_env.types import Outcome, Status

    assert set(figures.OUTCOME_COLOURS) == {outcome.value for outcome in Outcome}
    assert len(set(figures.OUTCOME_COLOURS.values())) == len(Outcome)
    assert set(figures.SHARE_COLOURS) == {status.value for status in Status}
