"""The gentle preset: production with one band moved."""

import itertools
import re
import runpy
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastkernels_env import reward
from fastkernels_env.reward import grade_of
from fastkernels_env.types import Outcome

strategies = runpy.run_path(str(Path(__file__).parent / "strategies.py"))
GENTLE, PRODUCTION = reward.load_preset("gentle"), reward.load_preset("production")
TEXT = (Path(reward.__file__).parent / "presets" / "gentle.toml").read_text("utf-8")
JUDGED = tuple(outcome for outcome in Outcome if outcome is not Outcome.FAULT)
anything = strategies["evaluations"](JUDGED, speedups=st.none() | strategies["odd_speedups"], workloads_right=strategies["odd_number"])
ORDER = [
    "tampered", "rejected", "build_failed", "crashed", "silent_error", "wrong", "stack_conflict", "unmeasured", "slower", "parity", "faster"
]
MAY_TOUCH = {("rejected", "build_failed"), ("build_failed", "crashed"), ("unmeasured", "slower")}


def rank(evaluation):
    grade = grade_of(evaluation).value
    return ORDER.index("crashed" if grade == "timed_out" else grade)


@settings(max_examples=50)
@given(st.lists(anything, min_size=2, max_size=5))
def test_order(several):
    for worse, better in itertools.combinations(sorted(several, key=rank), 2):
        low, high = GENTLE.score(worse).total, GENTLE.score(better).total
        if rank(better) > rank(worse):
            assert low < high or (low == high and (ORDER[rank(worse)], ORDER[rank(better)]) in MAY_TOUCH)


@given(anything)
def test_only_silent_errors_are_paid_otherwise_than_in_production(evaluation):
    gentle, production = GENTLE.score(evaluation), PRODUCTION.score(evaluation)
    if evaluation.outcome is Outcome.SILENT_ERROR:
        assert gentle.total > production.total
    else:
        assert gentle.parts == production.parts


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("silent_error = -0.17", "silent_error = -0.2", "'silent_error' must rank above 'crashed' and 'timed_out'"),
        ("silent_error = -0.17", "silent_error = -0.15", "'wrong' must rank above 'silent_error'"),
        ("tampered = -1.0", "tampered = -0.9", "'tampered' must always earn exactly the lower bound -1"),
        ('order = "gentle"', 'order = "production"', "'silent_error' ends at|must rank"),
    ],
)
def test_a_broken_order_is_refused(tmp_path, old, new, says):
    assert old in TEXT
    path = tmp_path / "mine.toml"
    path.write_text(TEXT.replace(old, new, 1))
    with pytest.raises(reward.PresetError, match=says) as refused:
        reward.load_preset(path)
    assert re.search(r"mine\.toml: parts", str(refused.value))


@pytest.mark.parametrize(
    ("failed", "right", "total"),
    [
        # -0.17 + 0.01 * 0.75 + 0.005 * 1/2 - 0.02 * 0.7
        (["canaries"], 0.75, -0.174),
        # ... + 0.005 * 1/3 - 0.02 * 1: prices of 0.6 + 0.5 count as 1
        (["public_shapes", "hidden_shapes"], 0.0, -0.1883333),
    ],
)
def test_worked_values(failed, right, total):
    check = strategies["check"]
    checks = [check("smoke", "smoke", "passed"), *(check(name, "verify", "failed") for name in failed)]
    record = strategies["bare"](Outcome.SILENT_ERROR, checks=checks, workloads_right=right)
    assert GENTLE.score(record).total == pytest.approx(total, abs=1e-7)
