"""What a person and a script see of an evaluation."""

import io
import json
import math
import runpy
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.style import Style

from fastkernels_env import reward
from fastkernels_env.report import evaluation_json, outcome_style, plain_report, render_evaluation
from fastkernels_env.types import BaselineReport, Outcome, Reward, Speedup

strategies = runpy.run_path(str(Path(__file__).parent / "reward" / "strategies.py"))
bare, realistic, evaluations, check = (strategies[name] for name in ("bare", "realistic", "evaluations", "check"))
odd = evaluations(speedups=st.none() | strategies["odd_speedups"])
SCORE = reward.load_preset("production").score


def test_json_keys():
    data = evaluation_json(realistic(), Reward(preset="p", total=1.5, parts={"a": 1.0, "b": 0.5}))
    assert list(data) == [
        "schema_version", "task", "device", "outcome", "reward", "checks", "speedup", "baseline", "timings", "seconds", "feedback",
    ]
    assert (data["schema_version"], data["task"], data["device"], data["outcome"]) == (1, "moe_gemm", "cuda", "accepted")
    assert data["reward"] == {"total": 1.5, "parts": {"a": 1.0, "b": 0.5}}
    assert data["checks"][7] == {
        "name": "op_schema", "stage": "integrate", "status": "passed", "evidence": "reported", "detail": "no undeclared mutation",
    }
    assert data["speedup"] == {"estimate": 1.31, "low": 1.27, "high": 1.36}
    assert data["baseline"] == {
        "used": ["grouped_mm", "triton"], "not_available": {"flashinfer": "cannot be imported: No module named 'flashinfer'"},
    }
    assert data["timings"][2] == {
        "workload": "decode_b4_hot",
        "candidate_us": 9.81,
        "baselines": {"grouped_mm": 9.22, "triton": 11.0},
        "speed_of_light": None,
    }
    assert data["seconds"] == {"build": 1.62, "smoke": 0.21, "verify": 3.04, "integrate": 0.8, "profile": 4.4}
    assert data["feedback"].startswith("Accepted: 1.31x")


def test_json_where_nothing_was_timed_or_paid():
    data = evaluation_json(bare(Outcome.FAULT), Reward(preset="p", total=None))
    assert data["reward"] == {"total": None, "parts": {}}
    assert data["speedup"] is None
    assert data["timings"] == data["checks"] == []
    assert data["baseline"] == {"used": [], "not_available": {}}


def test_json_names_why_a_baseline_was_not_used():
    baselines = [
        BaselineReport(name="compile", status="failed", detail="wrong output"),
        BaselineReport(name="liger", status="skipped", detail="quick"),
    ]
    data = evaluation_json(bare(Outcome.ACCEPTED, baselines=baselines), Reward(preset="p", total=0.0))
    assert data["baseline"] == {"used": [], "not_available": {"compile": "failed: wrong output", "liger": "skipped: quick"}}


@given(odd)
def test_json_is_strict_json(evaluation):
    data = evaluation_json(evaluation, SCORE(evaluation))
    assert json.loads(json.dumps(data, allow_nan=False)) == data


def test_json_has_null_for_what_is_not_finite():
    speedup = Speedup(estimate=math.nan, low=-math.inf, high=math.inf, worst=0.0, worst_workload="")
    data = evaluation_json(bare(Outcome.WRONG, speedup=speedup, seconds={"build": math.nan}), Reward(preset="p", total=math.nan))
    assert data["speedup"] == {"estimate": None, "low": None, "high": None}
    assert data["seconds"] == {"build": None}
    assert data["reward"]["total"] is None


@pytest.mark.parametrize("outcome", Outcome)
def test_every_outcome_is_shown(outcome):
    assert Style.parse(outcome_style(outcome)).color
    evaluation = realistic(outcome, reason="because of that")
    text = plain_report(evaluation, SCORE(evaluation))
    assert outcome.value.upper().replace("_", " ") in text
    assert "because of that" in text
    assert plain_report(bare(outcome)).count("\n") == 4


@settings(max_examples=40)
@given(odd, st.sampled_from([20, 60, 100, 200]))
def test_any_evaluation_can_be_shown(evaluation, width):
    console = Console(file=io.StringIO(), width=width, force_terminal=True)
    console.print(render_evaluation(evaluation, SCORE(evaluation)))


def test_plain_report_shows_all():
    evaluation = realistic()
    text = plain_report(evaluation, Reward(preset="production", total=1.208, parts={"outcome": 1.05, "speed": 0.108}))
    for expected in (
        "moe_gemm on cuda, NVIDIA H200", "+1.208", "production", "outcome +1.050", "speed +0.108", "1.31x", "1.27 to 1.36",
        "worst 0.94x in decode_b4_hot", "side_stream, memory_growth", "not run", "passed (reported)", "1,413", "38.2", "1.32x",
        "71%", "grouped_mm, triton",
        "flashinfer not available: cannot be imported", "verify 3.04", "Most time is lost in decode_b4_hot",
    ):
        assert expected in text
    assert max(map(len, text.splitlines())) == 100
    assert "\x1b" not in text


def test_no_reward_is_invented_for_a_fault():
    assert "none: the fault is ours" in plain_report(bare(Outcome.FAULT), SCORE(bare(Outcome.FAULT)))


def test_checks_are_grouped_by_stage_in_order():
    checks = [
        check("late", "profile", "passed"),
        check("early", "build", "failed"),
        check("other", "profile", "not_run", "no device"),
    ]
    rows = [line.strip("│ ").split() for line in plain_report(bare(Outcome.WRONG, checks=checks)).splitlines()]
    assert rows[6:9] == [["build", "early", "failed"], ["profile", "late", "passed"], ["other", "not", "run", "no", "device"]]


def test_a_submission_cannot_steer_the_terminal():
    text = "\x1b[2J\x07[bold red]markup[/bold red]\r\ud800\u202e"
    evaluation = bare(Outcome.WRONG, feedback=text, checks=[check(text, "smoke", "failed", text)], seconds={text: 1.0})
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(render_evaluation(evaluation))
    shown = console.file.getvalue()
    assert "[bold red]markup[/bold red]" in shown
    assert not set("\x1b\x07\r\ud800\u202e") & set(shown)


def test_long_feedback_is_cut_with_a_count():
    text = plain_report(bare(Outcome.BUILD_FAILED, feedback="\n".join(f"line {n}" for n in range(50))))
    assert "line 19" in text
    assert "line 20" not in text
    assert "(30 more lines)" in text
