"""The production preset: order, bounds, parts, and values worked out by hand."""

import itertools
import math
import pickle
import runpy
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastkernels_env import reward
from fastkernels_env.checks import CHECKS
from fastkernels_env.types import Evidence, Outcome, Speedup, Stage, Status, to_dict

strategies = runpy.run_path(str(Path(__file__).parent / "strategies.py"))
evaluations, odd_number, odd_speedups = strategies["evaluations"], strategies["odd_number"], strategies["odd_speedups"]
bare, check = strategies["bare"], strategies["check"]
PRODUCTION = reward.load_preset("production")
PARTS = {"outcome", "correctness", "checks", "silent", "stack", "speed"}
anything = evaluations(speedups=st.none() | odd_speedups | strategies["speedups"], workloads_right=odd_number)

RANKS = [
    ("tampered",), ("silent_error",), ("rejected",), ("build_failed",), ("crashed", "timed_out"), ("wrong",), ("stack_conflict",),
    ("unmeasured",), ("slower",), ("parity",), ("faster",),
]
MAY_TOUCH = [("rejected", "build_failed"), ("build_failed", "crashed"), ("crashed", "wrong"), ("unmeasured", "slower")]


def rank(evaluation):
    """Place of an evaluation in the order, worked out apart from the code under test."""
    name = evaluation.outcome.value
    if name == "accepted":
        s = evaluation.speedup
        name = "parity"
        if s is not None and s.low <= s.high:
            name = "faster" if s.low > 1 else "slower" if s.high < 1 else "parity"
    return next(index for index, names in enumerate(RANKS) if name in names)


def below(preset, worse, better):
    """Whether two evaluations of different rank are paid in the right order."""
    low, high = preset.score(worse).total, preset.score(better).total
    touching = rank(better) - rank(worse) == 1 and (RANKS[rank(worse)][0], RANKS[rank(better)][0]) in MAY_TOUCH
    return low <= high if touching else low < high


@given(st.lists(anything.filter(lambda e: e.outcome is not Outcome.FAULT), min_size=2, max_size=6))
def test_order(several):
    for a, b in itertools.combinations(sorted(several, key=rank), 2):
        assert rank(a) == rank(b) or below(PRODUCTION, a, b)


def test_order_holds_for_every_pair_at_its_extremes():
    red = [check("x", "verify", "failed")]
    green = [check("x", "verify", "passed")]
    speeds = [None, *(interval(x, x) for x in (0.0, 1e-9, 1 - 1e-9, 1, 1 + 1e-9, 1e9))]
    corners = [
        bare(outcome, checks=checks, speedup=speed, workloads_right=right)
        for outcome in Outcome if outcome is not Outcome.FAULT
        for checks in (red, green, []) for speed in speeds for right in (0.0, 1.0)
    ]
    for a, b in itertools.combinations(sorted(corners, key=rank), 2):
        assert rank(a) == rank(b) or below(PRODUCTION, a, b)


@given(anything)
def test_bounds_parts_and_determinism(evaluation):
    before = to_dict(evaluation)
    scored = PRODUCTION.score(evaluation)
    assert PRODUCTION.score(evaluation) == scored
    assert repr(to_dict(evaluation)) == repr(before)
    assert scored.preset == "production"
    if evaluation.outcome is Outcome.FAULT:
        assert scored.total is None
        assert scored.parts == {}
        return
    assert -1 <= scored.total <= 2
    assert set(scored.parts) == PARTS == set(PRODUCTION.part_names)
    assert all(isinstance(value, float) and math.isfinite(value) for value in scored.parts.values())
    assert math.fsum(scored.parts.values()) == scored.total
    if evaluation.outcome is Outcome.TAMPERED:
        assert scored.total == -1


@given(anything)
def test_crashed_and_timed_out_are_paid_alike(evaluation):
    crashed, timed_out = (
        bare(outcome, checks=evaluation.checks, speedup=evaluation.speedup, workloads_right=evaluation.workloads_right)
        for outcome in (Outcome.CRASHED, Outcome.TIMED_OUT)
    )
    assert PRODUCTION.score(crashed).parts == PRODUCTION.score(timed_out).parts


@given(evaluations((Outcome.ACCEPTED,)), st.floats(1.001, 7), st.floats(1.01, 1.05))
def test_more_speed_pays_more(evaluation, low, factor):
    def paid(low):
        return PRODUCTION.score(bare(Outcome.ACCEPTED, checks=evaluation.checks, speedup=interval(low, 2 * low))).total

    assert paid(low) < paid(low * factor)


@given(st.sampled_from([Outcome.SILENT_ERROR, Outcome.WRONG, Outcome.CRASHED, Outcome.STACK_CONFLICT]), st.floats(0, 0.9))
def test_more_right_pays_more(outcome, share):
    less, more = (PRODUCTION.score(bare(outcome, workloads_right=right)).total for right in (share, share + 0.1))
    assert less < more


def interval(low, high):
    return Speedup(estimate=(low + high) / 2, low=low, high=high, worst=low, worst_workload="w")


THREE_OF_FOUR = [*(check(name, "verify", "passed") for name in "abc"), check("d", "verify", "failed")]
RECOMPILES = [check("recompiles", "integrate", "failed", evidence="reported")]
REPORTED = [
    check("a", "verify", "passed"),
    check("b", "integrate", "passed", evidence="reported"),
    check("c", "profile", "not_run"),
]


@pytest.mark.parametrize(
    ("evaluation", "total"),
    [
        (bare(Outcome.TAMPERED, checks=THREE_OF_FOUR, workloads_right=1.0, speedup=interval(9, 10)), -1.0),
        # -0.75 + 0.07 * 0.75 + 0.03 * 3/4: a check without a price
        (bare(Outcome.SILENT_ERROR, checks=THREE_OF_FOUR, workloads_right=0.75), -0.675),
        # ... - 0.15 * 0.7
        (bare(Outcome.SILENT_ERROR, checks=[*THREE_OF_FOUR[:3], check("canaries", "verify", "failed")], workloads_right=0.75), -0.78),
        # -0.75 - 0.15 * 1: prices of 0.6 + 0.5 count as 1
        (bare(Outcome.SILENT_ERROR, checks=[check(n, "verify", "failed") for n in ("public_shapes", "hidden_shapes")]), -0.9),
        (bare(Outcome.REJECTED), -0.5),
        # -0.4 + 0.05 * 3/4
        (bare(Outcome.BUILD_FAILED, checks=THREE_OF_FOUR), -0.3625),
        # -0.3 + 0.05 * 0.5 + 0.05 * 3/4
        (bare(Outcome.CRASHED, checks=THREE_OF_FOUR, workloads_right=0.5), -0.2375),
        (bare(Outcome.TIMED_OUT, checks=THREE_OF_FOUR, workloads_right=0.5), -0.2375),
        # -0.15 + 0.1 * 0.5 + 0.05 * 3/4
        (bare(Outcome.WRONG, checks=THREE_OF_FOUR, workloads_right=0.5), -0.0625),
        # 0.26 + 0.02 * 1 + 0.02 * 3/4; the speed of something that breaks the stack is worth nothing
        (bare(Outcome.STACK_CONFLICT, checks=THREE_OF_FOUR, workloads_right=1.0, speedup=interval(2, 3)), 0.295),
        # 0.26 + 0.02 - 0.16 * 0.2
        (bare(Outcome.STACK_CONFLICT, checks=RECOMPILES, workloads_right=1.0), 0.248),
        # 0.35 + 0.05: a reported pass and a check that was not run count neither way
        (bare(Outcome.UNMEASURED, checks=REPORTED), 0.4),
        # 0.85 + 0.05 + 0.2 * ln 0.5 = 0.9 - 0.2 * 0.693147
        (bare(Outcome.ACCEPTED, checks=REPORTED, speedup=interval(0.4, 0.5)), 0.7613706),
        # 0.85 + 0.2 * -2: ln 0.01 is clipped
        (bare(Outcome.ACCEPTED, speedup=interval(0.005, 0.01)), 0.45),
        (bare(Outcome.ACCEPTED, checks=REPORTED, speedup=interval(0.9, 1.2)), 1.0),
        (bare(Outcome.ACCEPTED, checks=REPORTED), 1.0),
        # 1.05 + 0.05 + 0.45 * ln 2
        (bare(Outcome.ACCEPTED, checks=REPORTED, speedup=interval(2, 2.5)), 1.4119162),
        # 1.05 + 0.05 + 0.45 * 2: ln 100 is clipped
        (bare(Outcome.ACCEPTED, checks=REPORTED, speedup=interval(100, 110)), 2.0),
    ],
)
def test_worked_values(evaluation, total):
    assert PRODUCTION.score(evaluation).total == pytest.approx(total, abs=1e-7)


@pytest.mark.parametrize(
    ("part", "outcome", "stages"),
    [("silent", Outcome.SILENT_ERROR, (Stage.VERIFY, Stage.PROFILE)), ("stack", Outcome.STACK_CONFLICT, (Stage.INTEGRATE,))],
)
def test_every_check_has_a_price_of_its_own_part(part, outcome, stages):
    for spec in CHECKS:
        paid = PRODUCTION.score(bare(outcome, checks=[check(spec.name, spec.stage, "failed")])).parts[part]
        assert (paid < 0) is (spec.stage in stages), spec.name


@given(st.sets(st.sampled_from([spec.name for spec in CHECKS])), st.sampled_from(CHECKS))
def test_one_more_failure_never_pays(failed, more):
    for outcome in (Outcome.SILENT_ERROR, Outcome.STACK_CONFLICT):
        worse, better = (
            [check(s.name, s.stage, "failed" if s.name in names else "passed") for s in CHECKS] for names in (failed | {more.name}, failed)
        )
        assert PRODUCTION.score(bare(outcome, checks=worse)).total <= PRODUCTION.score(bare(outcome, checks=better)).total


def test_survives_pickling():
    assert pickle.loads(pickle.dumps(PRODUCTION)) == PRODUCTION


@settings(max_examples=100)
@given(
    st.lists(st.floats(0.05, 0.28), min_size=10, max_size=10),
    st.dictionaries(st.sampled_from(RANKS[1:]), st.floats(-0.03, 0.1), max_size=6),
    st.dictionaries(st.sampled_from(["slower", "faster"]), st.floats(-0.01, 0.1), max_size=2),
    st.lists(anything.filter(lambda e: e.outcome is not Outcome.FAULT), min_size=2, max_size=4),
)
def test_any_weights_that_load_keep_the_order(tmp_path_factory, gaps, credits, speed, several):
    bases = itertools.accumulate(gaps, initial=-1.0)
    base = {name: value for names, value in zip(RANKS, bases, strict=True) for name in names}
    credit = {name: value for names, value in credits.items() for name in names}
    path = tmp_path_factory.mktemp("preset") / "mine.toml"
    path.write_text(
        'summary = "x"\norder = "production"\nbounds = [-1.0, 2.0]\n'
        f"[parts.outcome]\nterm = 'constant'\nweight = {inline(base)}\n"
        f"[parts.checks]\nterm = 'checks_green'\nweight = {inline(credit)}\n"
        f"[parts.speed]\nterm = 'speed'\nclip = [-1, 1]\nweight = {inline(speed)}\n"
    )
    try:
        preset = reward.load_preset(path)
    except reward.PresetError:
        return
    for a, b in itertools.combinations(sorted(several, key=rank), 2):
        assert rank(a) == rank(b) or below(preset, a, b)
        assert -1 <= preset.score(a).total <= 2


def inline(table):
    text = "{ " + ", ".join(f"{key} = {value!r}" for key, value in table.items()) + " }"
    assert tomllib.loads(f"x = {text}")["x"] == table
    return text


def test_only_the_judge_vouches_for_a_pass():
    passed = [check("a", Stage.VERIFY, Status.PASSED, evidence=Evidence.REPORTED)]
    failed = [check("a", Stage.VERIFY, Status.FAILED, evidence=Evidence.REPORTED), check("b", Stage.VERIFY, Status.PASSED)]
    assert PRODUCTION.score(bare(Outcome.ACCEPTED, checks=passed)).parts["checks"] == 0
    assert PRODUCTION.score(bare(Outcome.ACCEPTED, checks=failed)).parts["checks"] == pytest.approx(0.025)
