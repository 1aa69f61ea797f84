"""What a language model is told: enough to do better, nothing of the hidden inputs."""

from __future__ import annotations

import runpy
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from fastkernels_env.feedback import write_feedback
from fastkernels_env.types import Check, Outcome, Speedup, Stage, Status, Timing

strategies = runpy.run_path(str(Path(__file__).parent / "reward" / "strategies.py"))
bare, evaluations = strategies["bare"], strategies["evaluations"]
TIMING = Timing(
    workload="decode", count=65, candidate_us=12.5, baselines={"compile": 20.0, "eager": 15.0}, best_baseline="eager",
    speed_of_light=0.41, mode="eager",
)  # fmt: skip


def record(outcome, reason="the reason", **fields):
    return msgspec.structs.replace(bare(outcome), reason=reason, **fields)


def speedup(low, high):
    return Speedup(estimate=(low + high) / 2, low=low, high=high, worst=low, worst_workload="decode")


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=60)
@given(evaluations())
def test_every_record_gives_a_text(evaluation):
    text = write_feedback(evaluation, "output")
    assert evaluation.outcome.value in text.splitlines()[0]


@pytest.mark.parametrize("outcome", Outcome)
def test_the_first_line_is_outcome_and_reason(outcome):
    first = write_feedback(record(outcome, "passes the smoke check, but hidden_shapes failed: out: 3 % off")).splitlines()[0]
    assert first == f"Outcome: {outcome.value}. Passes the smoke check, but hidden_shapes failed: out: 3 % off."


def test_a_build_failure_shows_the_compiler_and_nothing_else_does():
    log = "submission.cpp:5:3: error: no such name"
    assert log in write_feedback(record(Outcome.BUILD_FAILED, build_log=log))
    for outcome in set(Outcome) - {Outcome.BUILD_FAILED}:
        assert log not in write_feedback(record(outcome, build_log=log))


@pytest.mark.parametrize("outcome", Outcome)
def test_only_a_crash_or_a_time_out_shows_the_processs_output(outcome):
    shown = "Traceback: my last words" in write_feedback(record(outcome), "Traceback: my last words")
    assert shown is (outcome in (Outcome.CRASHED, Outcome.TIMED_OUT))


def test_long_logs_are_cut_at_the_right_end():
    log = write_feedback(record(Outcome.BUILD_FAILED, build_log="first" + "x" * 10_000 + "last"))
    assert "first" in log
    assert "last" not in log
    output = write_feedback(record(Outcome.CRASHED), "first" + "x" * 10_000 + "last")
    assert "first" not in output
    assert output.endswith("last")
    assert max(len(log), len(output)) < 4000


def test_other_failures_are_listed_once():
    checks = [
        Check(name="hidden_shapes", stage=Stage.VERIFY, status=Status.FAILED, detail="3 % outside"),
        Check(name="canaries", stage=Stage.VERIFY, status=Status.FAILED, detail="4 bytes changed"),
        Check(name="poison", stage=Stage.VERIFY, status=Status.PASSED, detail="not to be shown"),
        Check(name="clock", stage=Stage.PROFILE, status=Status.NOT_RUN, detail="nor this"),
    ]
    text = write_feedback(record(Outcome.SILENT_ERROR, "hidden_shapes failed: 3 % outside", checks=checks))
    assert text.count("3 % outside") == 1
    assert "- canaries: 4 bytes changed" in text
    assert "not to be shown" not in text
    assert "nor this" not in text


@pytest.mark.parametrize(("low", "high", "verdict"), [(1.2, 1.4, "faster than"), (0.5, 0.7, "slower than"), (0.9, 1.1, "at parity with")])
def test_the_interval_says_what_it_means(low, high, verdict):
    text = write_feedback(record(Outcome.ACCEPTED, timings=[TIMING], speedup=speedup(low, high)))
    assert f"{verdict} production" in text
    assert f"{low:.3f} to {high:.3f}" in text
    assert "decode at" in text


def test_times_name_every_baseline_fastest_first():
    line = write_feedback(record(Outcome.ACCEPTED, timings=[TIMING])).splitlines()[-1]
    assert line == "- decode (weight 65): 12.5 us; eager 15 us, compile 20 us; 41% of the speed of light"


def test_why_there_is_no_graph_is_told():
    timing = msgspec.structs.replace(TIMING, mode="eager: CUDA graph capture failed: it synchronises", speed_of_light=None)
    text = write_feedback(record(Outcome.ACCEPTED, timings=[timing], own_kernel_share=0.25))
    assert "it synchronises" in text
    assert "speed of light" not in text
    assert "your own kernels: 25%" in text


def test_resources_are_told():
    assert "registers 168, spill_bytes 12" in write_feedback(record(Outcome.ACCEPTED, resources={"spill_bytes": 12.0, "registers": 168.0}))
