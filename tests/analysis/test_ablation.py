"""Presets compared over records."""

import math
import runpy
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastkernels_env.analysis import ScoringError, ablate
from fastkernels_env.reward import Grade, load_preset, preset_names, term
from fastkernels_env.types import Outcome

records = runpy.run_path(str(Path(__file__).parent / "records.py"))
record, preset, BLIND, GREEDY, run_of = (records[name] for name in ("record", "preset", "BLIND", "GREEDY", "run_of"))
evaluations = records["evaluations"]
odd_speedups = records["strategies"]["odd_speedups"]


@pytest.fixture
def presets(tmp_path):
    return [load_preset("production"), preset(tmp_path, "blind", BLIND), preset(tmp_path, "greedy", GREEDY)]


def verdict(ablation, name, outcome):
    (found,) = (one for one in ablation.verdicts if (one.preset, one.outcome) == (name, outcome))
    return found.count, found.at_least_parity, found.above_parity, found.above_loud


def test_who_pays_for_a_silent_error(presets):
    # Three silent errors: twice as fast as the baseline, as fast as it, and half as fast.
    found = ablate([record(str(speed), "silent_error", speed) for speed in (2.0, 1.0, 0.5)], presets)
    assert verdict(found, "production", Outcome.SILENT_ERROR) == (3, 0, 0, 0)
    assert verdict(found, "blind", Outcome.SILENT_ERROR) == (3, 3, 0, 3)  # 1 against 1 at parity, 0 for a loud failure
    assert verdict(found, "greedy", Outcome.SILENT_ERROR) == (3, 2, 1, 1)  # log 2, 0, log 0.5 against 0 and 0
    assert verdict(found, "greedy", Outcome.TAMPERED) == (0, 0, 0, 0)


def test_what_is_paid_by_grade(presets):
    found = ablate([record("a", speedup=2.0), record("b", speedup=4.0), record("c", "wrong"), record("d", "fault")], presets)
    greedy = {one.grade: one.rewards for one in found.grades if one.preset == "greedy"}
    assert set(greedy) == {Grade.FASTER, Grade.WRONG}
    assert (greedy[Grade.FASTER].count, greedy[Grade.FASTER].mean) == (2, pytest.approx(1.5 * math.log(2)))
    assert (found.faults, found.rewards["greedy"].count) == (1, 3)


def test_correlations(presets):
    found = ablate([record("a", speedup=2.0), record("b", "silent_error", 4.0), record("c", "wrong")], presets)
    pairs = {(one.first, one.second): (one.spearman, one.kendall) for one in found.correlations}
    # production: a, c, b from the best; blind: a = b, c; greedy: b, a, c.
    assert pairs["production", "greedy"] == (pytest.approx(-0.5), pytest.approx(-1 / 3))
    assert pairs["production", "blind"] == (pytest.approx(0), pytest.approx(0))
    assert pairs["blind", "greedy"] == (pytest.approx(math.sqrt(3) / 2), pytest.approx(2 / math.sqrt(6)))


def test_a_preset_that_pays_all_alike_correlates_with_none(presets):
    found = ablate([record("a", "wrong"), record("b", "crashed")], presets)
    assert {(one.spearman, one.kendall) for one in found.correlations} == {(None, None)}


def test_curves(presets):
    found = ablate(
        [
            record("a", "wrong", run="r", policy_step=0), record("b", speedup=2.0, run="r", policy_step=1),
            record("c", "silent_error", 4.0, run="r", policy_step=1), record("d", "fault", run="r", policy_step=1),
            record("e", speedup=9.0),
        ],
        presets,
    )
    curve = [point for point in found.curves if point.preset == "greedy"]
    assert [(point.policy_step, point.count, point.accepted, point.unsound) for point in curve] == [(0, 1, 0, 0), (1, 2, 0.5, 0.5)]
    assert [point.mean for point in curve] == [0, pytest.approx(1.5 * math.log(2))]


def test_records_without_runs_have_no_curves(presets):
    assert ablate([record("a"), record("b")], presets).curves == ()


@pytest.mark.parametrize("replies", [[], [record("a", "fault"), record("b", "fault")]])
def test_nothing_to_score(presets, replies):
    found = ablate(replies, presets)
    assert (found.faults, found.rewards["production"].count, found.rewards["production"].mean) == (len(replies), 0, None)
    assert (found.grades, found.groups, found.curves) == ((), (), ())


def test_presets_must_differ(presets):
    with pytest.raises(ValueError, match="one preset or more, each of another name, got none"):
        ablate([], [])
    with pytest.raises(ValueError, match="got production, production"):
        ablate([], [presets[0], presets[0]])


def test_a_term_that_fails_names_preset_and_record(tmp_path):
    @term(low=0.0, high=1.0)
    def needs_a_build_time(evaluation):
        return 1 / evaluation.seconds["build"]

    broken = preset(tmp_path, "broken", 'summary = ""\nbounds = [0.0, 1.0]\n[parts.p]\nterm = "needs_a_build_time"\n')
    with pytest.raises(ScoringError, match="preset 'broken' cannot score the evaluation 'a': KeyError: 'build'"):
        ablate([record("a")], [broken])


ALL = [load_preset(name) for name in preset_names()]


@settings(max_examples=25)
@given(st.lists(evaluations(speedups=st.none() | odd_speedups), max_size=6))
def test_any_records_under_every_preset_that_comes_with_the_library(replies):
    found = ablate(replies, ALL)
    assert len(found.samples) == len(replies)
    for one in ALL:
        low, high = found.rewards[one.name].low, found.rewards[one.name].high
        assert low is None or one.bounds[0] <= low <= high <= one.bounds[1]
    for group in found.group_summaries:
        assert group.groups == 0 or group.flat + group.tied + group.lottery + group.decided == pytest.approx(1)
    for pair in found.correlations:
        assert pair.kendall is None or -1 <= pair.kendall <= 1


def test_a_run_with_every_outcome(presets):
    found = ablate([*run_of("a", 8), *run_of("b", 8)], presets)
    assert {sample.outcome for sample in found.samples} == set(Outcome)
    assert {point.run for point in found.curves} == {"a", "b"}
