"""The list of checks: nothing that was not run reads as passed, and the first failure is the one that is told."""

from __future__ import annotations

import pytest

from fastkernels_env.checks import BY_NAME, CHECKS, CheckList, required
from fastkernels_env.types import Evidence, Stage, Status

DEVICES = ("cpu", "cuda")
DONE = [spec.name for spec in CHECKS if not spec.missing]


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


def test_names_are_unique_and_stages_in_order():
    assert len(BY_NAME) == len(CHECKS)
    order = [list(Stage).index(spec.stage) for spec in CHECKS]
    assert order == sorted(order)


def test_at_first_nothing_has_run_and_every_reason_is_given(device):
    checks = CheckList(device).finish("the evaluation ended before it")
    assert [c.name for c in checks] == [spec.name for spec in CHECKS]
    assert all(c.status is Status.NOT_RUN and c.detail for c in checks)
    assert set(CheckList(device).missing()) == set(required(device)) != set()


def test_what_this_version_lacks_is_never_required(device):
    assert not {spec.name for spec in CHECKS if spec.missing} & set(required(device))
    assert {spec.name for spec in CHECKS if not (spec.missing or spec.advisory) and device in spec.devices} == set(required(device))


def test_what_is_advisory_is_recorded_and_decides_nothing(device):
    checks = CheckList(device)
    for name in required(device):
        checks.passed(name)
    checks.failed("inline_trace", "a graph break")
    checks.failed("second_device", "a wrong answer")
    assert checks.missing() == []
    assert checks.first_failure(Stage.INTEGRATE) is None
    assert checks.has("inline_trace", Status.FAILED)
    checks.failed("global_state", "a flag")
    assert checks.first_failure(Stage.INTEGRATE).name == "global_state"


def test_the_rest_is_missing_until_it_passed(device):
    checks = CheckList(device)
    for name in required(device):
        assert name in checks.missing()
        checks.passed(name)
        assert name not in checks.missing()
    assert checks.missing() == []


@pytest.mark.parametrize("name", DONE)
def test_a_failure_stays_whatever_comes_later(name):
    checks = CheckList("cpu")
    checks.passed(name)
    checks.failed(name, "first")
    checks.passed(name, "later")
    checks.failed(name, "second")
    checks.not_run(name, "never")
    check = next(c for c in checks.finish("") if c.name == name)
    assert (check.status, check.detail, check.stage) == (Status.FAILED, "first", BY_NAME[name].stage)


def test_a_check_that_could_not_run_blocks_and_one_that_does_not_apply_does_not():
    checks = CheckList("cpu")
    checks.not_run("smoke", "could not run")
    checks.waive("skewed_inputs", "the task has no such structure")
    assert "smoke" in checks.missing()
    assert "skewed_inputs" not in checks.missing()
    details = {c.name: (c.status, c.detail) for c in checks.finish("")}
    assert details["skewed_inputs"] == (Status.NOT_RUN, "the task has no such structure")
    assert details["smoke"] == (Status.NOT_RUN, "could not run")


def test_a_waiver_does_not_hide_a_failure():
    checks = CheckList("cpu")
    checks.failed("skewed_inputs", "wrong")
    checks.waive("skewed_inputs", "does not apply")
    assert checks.first_failure(Stage.VERIFY).detail == "wrong"


def test_not_run_never_replaces_what_ran():
    checks = CheckList("cpu")
    checks.passed("smoke", "ran")
    checks.not_run("smoke", "did not")
    assert checks.has("smoke", Status.PASSED)


def test_the_first_failure_is_the_first_in_the_table_and_of_the_stages_asked_for():
    checks = CheckList("cpu")
    for name in ("canaries", "timed_outputs", "hidden_shapes", "smoke"):
        checks.failed(name, name)
    assert checks.first_failure(Stage.SMOKE).name == "smoke"
    assert checks.first_failure(Stage.VERIFY).name == "hidden_shapes"
    assert checks.first_failure(Stage.VERIFY, Stage.PROFILE).name == "hidden_shapes"
    assert checks.first_failure(Stage.PROFILE).name == "timed_outputs"
    assert checks.first_failure(Stage.INTEGRATE) is None


def test_evidence_is_recorded():
    checks = CheckList("cuda")
    checks.failed("smoke", "it said so", Evidence.REPORTED)
    checks.passed("build")
    found = {c.name: c.evidence for c in checks.finish("")}
    assert (found["smoke"], found["build"]) == (Evidence.REPORTED, Evidence.JUDGED)


def test_unknown_names_are_errors():
    for call in ("passed", "failed", "not_run"):
        with pytest.raises(KeyError):
            getattr(CheckList("cpu"), call)("no_such_check", *([""] if call != "passed" else []))
