"""Judging without the clock: the same verdicts as an evaluation's, and the check that decided."""

import pytest

from fastkernels_env.qualify.judging import judge_without_clock
from fastkernels_env.registry import load_task
from fastkernels_env.types import Outcome

ENTRY = "def tiny_scale(out, input, weight, factor):\n"
RIGHT = ENTRY + "    out.copy_(input * weight * factor)\n"
CASES = [
    (RIGHT, Outcome.UNMEASURED, ""),
    (ENTRY + "    out.copy_(input * weight)\n", Outcome.WRONG, "smoke"),
    (ENTRY + "    n = len(out) // 8 * 8\n    out[:n].copy_(input[:n] * weight * factor)\n", Outcome.SILENT_ERROR, "hidden_shapes"),
    (ENTRY + "    out.copy_(input * weight * factor)\n    input.zero_()\n", Outcome.SILENT_ERROR, "inputs_unchanged"),
    (ENTRY + "    raise ValueError('no')\n", Outcome.CRASHED, "smoke"),
    (ENTRY + "    import os\n    os.kill(os.getpid(), 9)\n", Outcome.CRASHED, "smoke"),
    (ENTRY.replace("factor", "scale") + "    pass\n", Outcome.REJECTED, "contract"),
    ("void tiny_scale(tvm::ffi::TensorView out) { nonsense }", Outcome.REJECTED, "contract"),
]


@pytest.mark.parametrize(("source", "outcome", "check"), CASES)
def test_verdict_and_deciding_check(tiny, evaluator, source, outcome, check):
    judged = judge_without_clock(evaluator, tiny, source, 3)
    assert (judged.outcome, judged.check) == (outcome, check), judged.reason


def test_a_source_that_does_not_compile(tiny, evaluator):
    judged = judge_without_clock(evaluator, tiny, tiny.seeds()["cpu.cpp"].replace("float(factor)", "float(facto)"), 3)
    assert (judged.outcome, judged.check) == (Outcome.BUILD_FAILED, "build")
    assert "facto" in judged.reason


def test_a_broken_task_is_a_fault_and_the_next_source_is_judged(tiny, tmp_path, task_files, evaluator, monkeypatch):
    broken = task_files.texts["task"].replace('return {"out":', 'assert args["factor"] < 1\n            return {"out":')
    task_files(tmp_path / "broken_scale", task=broken)
    monkeypatch.setenv("FASTKERNELS_ENV_PATH", str(tmp_path))
    judged = judge_without_clock(evaluator, load_task("broken_scale"), RIGHT, 3)
    assert judged.outcome is Outcome.FAULT
    assert "broken_scale" in judged.reason
    assert judge_without_clock(evaluator, tiny, RIGHT, 3).outcome is Outcome.UNMEASURED
