"""Statistics against their definitions."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastkernels_env.analysis.statistics import inversions, kendall, moments, spearman

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

value = st.one_of(st.integers(-2, 2).map(float), st.floats(-1, 2), st.sampled_from([0.0, -0.0, 1e300, -1e300]))
pairs = st.lists(st.tuples(value, value), max_size=25)


def sign(number):
    return (number > 0) - (number < 0)


def kendall_by_definition(first, second):
    signs = [(sign(a - b), sign(c - d)) for (a, c), (b, d) in itertools.combinations(zip(first, second, strict=True), 2)]
    untied = sum(x != 0 for x, _ in signs), sum(y != 0 for _, y in signs)
    return sum(x * y for x, y in signs) / math.sqrt(untied[0] * untied[1]) if all(untied) else None


def spearman_by_definition(first, second):
    def ranks(values):
        return [1 + sum(other < one for other in values) + (sum(other == one for other in values) - 1) / 2 for one in values]

    x, y = (np.array(ranks(values)) for values in (first, second))
    if len(x) < 2 or len(set(x)) == 1 or len(set(y)) == 1:
        return None
    return float(np.corrcoef(x, y)[0, 1])


@given(pairs)
def test_kendall_is_what_its_definition_says(values):
    first, second = [a for a, _ in values], [b for _, b in values]
    expected = kendall_by_definition(first, second)
    assert kendall(first, second) == (None if expected is None else pytest.approx(expected))


@given(pairs)
def test_spearman_is_what_its_definition_says(values):
    first, second = [a for a, _ in values], [b for _, b in values]
    expected = spearman_by_definition(first, second)
    assert spearman(first, second) == (None if expected is None else pytest.approx(expected))


@given(st.lists(value, min_size=2, max_size=25).filter(lambda values: len(set(values)) > 1))
def test_an_order_agrees_with_itself_and_not_with_its_reverse(values):
    for correlation in (kendall, spearman):
        assert correlation(values, values) == pytest.approx(1)
        assert correlation(values, [-value for value in values]) == pytest.approx(-1)


@given(st.lists(st.integers(0, 40), max_size=40))
def test_inversions(numbers):
    expected = sum(a > b for a, b in itertools.combinations(numbers, 2))
    assert inversions(np.array(numbers, dtype=np.int64)) == expected


def test_worked_by_hand():
    # Pairs: (1,2) +, (1,3) tied in the second, (2,3) -. tau-b = 0 / sqrt(3 * 2); ranks 1 2 3 and 1.5 3 1.5.
    assert kendall([1, 2, 3], [5, 7, 5]) == 0
    assert spearman([1, 2, 3], [5, 7, 5]) == 0
    # Five concordant pairs and one discordant of six.
    assert kendall([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(4 / 6)
    assert spearman([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(0.8)


@pytest.mark.parametrize("correlation", [kendall, spearman])
def test_there_is_no_correlation_with_a_constant(correlation):
    assert correlation([1, 1, 1], [1, 2, 3]) is None
    assert correlation([1], [2]) is None
    assert correlation([], []) is None


@pytest.mark.parametrize("correlation", [kendall, spearman])
def test_sides_of_different_length_are_refused(correlation):
    with pytest.raises(ValueError, match="as many values on both sides, got 2 and 1"):
        correlation([1, 2], [1])


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=25))
def test_moments(values):
    found = moments(values)
    assert (found.count, found.low, found.high) == (len(values), min(values), max(values))
    assert found.low <= found.mean <= found.high
    assert found.mean == pytest.approx(np.mean(values))
    assert found.spread == pytest.approx(np.std(values), abs=1e-9)


def test_moments_of_nothing():
    found = moments([])
    assert (found.count, found.mean, found.spread, found.low, found.high) == (0, None, None, None, None)


def test_moments_of_equal_values_have_no_spread():
    assert moments([0.1] * 10).spread == 0
    assert moments([0.1] * 10).mean == 0.1
    assert moments([1.0, 3.0]).spread == 1
