"""One outcome out of checks and errors, whichever combination comes."""

from __future__ import annotations

import itertools

import pytest

from fastkernels_env.checks import CheckList, required
from fastkernels_env.judge.errors import WorkerDied, WorkerTimedOut
from fastkernels_env.judge.verdict import decide, decided_by
from fastkernels_env.types import Outcome, Stage

ERRORS = {None: None, "died": WorkerDied("it died"), "timed out": WorkerTimedOut("it hung")}


def checks_with(*failed, device="cpu", complete=True):
    checks = CheckList(device)
    for name in failed:
        checks.failed(name, f"{name} saw this")
    if complete:
        for name in required(device):
            checks.passed(name)
    return checks


def verdict(checks, error=None, tampered="", stage=Stage.PROFILE, timed=True):
    return decide(checks, ERRORS[error], tampered, stage, timed)


def test_everything_passed_is_accepted():
    assert verdict(checks_with())[0] is Outcome.ACCEPTED


@pytest.mark.parametrize("name", required("cpu"))
def test_one_required_check_that_did_not_pass_is_enough(name):
    checks = CheckList("cpu")
    for other in required("cpu"):
        if other != name:
            checks.passed(other)
    outcome, reason = verdict(checks)
    assert outcome is Outcome.FAULT
    assert name in reason


@pytest.mark.parametrize(
    ("failed", "expected"),
    [
        (("smoke",), Outcome.WRONG), (("smoke", "hidden_shapes"), Outcome.WRONG), (("hidden_shapes",), Outcome.SILENT_ERROR),
        (("canaries",), Outcome.SILENT_ERROR), (("timed_outputs",), Outcome.SILENT_ERROR), (("global_state",), Outcome.STACK_CONFLICT),
        (("global_state", "poison"), Outcome.SILENT_ERROR),
    ],
)  # fmt: skip
def test_a_failed_check_decides_by_its_stage(failed, expected):
    outcome, reason = verdict(checks_with(*failed))
    assert outcome is expected
    assert "saw this" in reason


@pytest.mark.parametrize(("error", "expected"), [("died", Outcome.CRASHED), ("timed out", Outcome.TIMED_OUT)])
@pytest.mark.parametrize("stage", [Stage.SMOKE, Stage.VERIFY, Stage.PROFILE])
def test_an_error_without_any_failure_is_what_ended_it(error, expected, stage):
    outcome, reason = verdict(checks_with(complete=False), error, stage=stage)
    assert outcome is expected
    assert reason == f"{stage.value}: {ERRORS[error].summary}"


@pytest.mark.parametrize("error", ["died", "timed out"])
@pytest.mark.parametrize("failed", ["smoke", "hidden_shapes", "canaries"])
def test_a_later_crash_does_not_undo_what_was_seen(failed, error):
    assert verdict(checks_with(failed, complete=False), error)[0] is verdict(checks_with(failed))[0]


def test_tampering_goes_before_everything():
    for error, failed in itertools.product(ERRORS, ("smoke", "hidden_shapes", "global_state", None)):
        checks = checks_with(*([failed] if failed else []), complete=False)
        assert verdict(checks, error, tampered="caught") == (Outcome.TAMPERED, "caught")


def test_what_cannot_be_timed_is_unmeasured_if_all_else_passed():
    checks = CheckList("cpu")
    for name in required("cpu"):
        if name not in ("timed_outputs", "clock"):
            checks.passed(name)
    assert verdict(checks, timed=False)[0] is Outcome.UNMEASURED
    assert verdict(checks, timed=True)[0] is Outcome.FAULT
    assert verdict(checks_with("hidden_shapes"), timed=False)[0] is Outcome.SILENT_ERROR
    assert verdict(CheckList("cpu"), timed=False)[0] is Outcome.FAULT


def test_nothing_but_a_clean_sheet_is_accepted():
    names = ("smoke", "hidden_shapes", "timed_outputs", "global_state")
    for failed in itertools.chain.from_iterable(itertools.combinations(names, n) for n in range(1, 5)):
        for error in ERRORS:
            assert verdict(checks_with(*failed), error)[0] not in (Outcome.ACCEPTED, Outcome.UNMEASURED, Outcome.FAULT)


# -- the check that decided ----------------------------------------------------------------------------------------------------


def decider(checks, error=None, tampered="", stage=Stage.PROFILE):
    outcome, reason = verdict(checks, error, tampered, stage)
    return decided_by(outcome, reason, stage, checks.finish(""))


def test_nothing_decides_against_what_is_accepted():
    assert decider(checks_with()) == ""


@pytest.mark.parametrize("name", ["smoke", "public_shapes", "canaries", "timed_outputs", "global_state"])
def test_a_failed_check_that_decides_is_named(name):
    assert decider(checks_with(name)) == name


def test_of_several_failures_the_one_that_the_verdict_quotes_is_named():
    assert decider(checks_with("global_state", "hidden_shapes")) == "hidden_shapes"
    assert decider(checks_with("canaries", "smoke")) == "smoke"


def test_evidence_of_tampering_names_its_check():
    assert decider(checks_with("hidden_shapes", "timed_outputs"), tampered="timed_outputs saw this") == "timed_outputs"
    assert decider(checks_with("hidden_shapes"), tampered="gave an old answer: hidden_shapes saw this") == "hidden_shapes"


@pytest.mark.parametrize("error", ["died", "timed out"])
@pytest.mark.parametrize("stage", [Stage.SMOKE, Stage.VERIFY, Stage.PROFILE])
def test_a_process_that_ended_names_the_stage(error, stage):
    assert decider(checks_with(complete=False), error, stage=stage) == stage.value


def test_a_fault_is_decided_by_no_check():
    assert decider(checks_with(complete=False)) == ""
