"""Which baselines take part, and what is said of those that do not."""

from __future__ import annotations

import textwrap

import pytest

from fastkernels_env import Outcome

EAGER = 'Baseline(name="eager", file="eager.py")'
PYTHON = """
    ```python
    import torch

    def tiny_scale(out, input, weight, factor):
        torch.mul(input, weight, out=out)
        out.mul_(factor)
    ```
"""


@pytest.fixture
def judge(tmp_path, task_files, monkeypatch, evaluator):
    """Judges an honest submission against baselines: their declarations, and the files that they name."""
    monkeypatch.setenv("FASTKERNELS_ENV_PATH", str(tmp_path))

    def judge(name, declared, **files):
        source = task_files.texts["task"]
        assert source.count(f"({EAGER},)") == 1
        folder = task_files(tmp_path / name, task=source.replace(f"({EAGER},)", f"({', '.join(declared)},)"))
        for file, text in files.items():
            (folder / "baselines" / f"{file}.py").write_text(textwrap.dedent(text))
        evaluation = evaluator.evaluate(name, textwrap.dedent(PYTHON))
        return evaluation, {report.name: report for report in evaluation.baselines}

    return judge


SLOW = """
    import time

    def tiny_scale(out, input, weight, factor):
        out.copy_(input * weight * factor)
        time.sleep(0.002)
"""


def test_a_fallback_takes_part_only_where_nothing_else_does(judge):
    fallback = EAGER.replace(")", ', fallback=("cpu",))')
    missing = 'Baseline(name="best", file="eager.py", requires="no_such_package")'
    present = missing.replace("no_such_package", "torch")

    evaluation, reports = judge("alone", [fallback, missing])
    assert (reports["eager"].status, reports["best"].status) == ("used", "not_available")
    assert set(evaluation.timings[0].baselines) == {"eager"}

    evaluation, reports = judge("spared", [fallback, present])
    assert (reports["eager"].status, reports["best"].status) == ("skipped", "used")
    assert "no other baseline" in reports["eager"].detail
    assert set(evaluation.timings[0].baselines) == {"best"}

    _, reports = judge("elsewhere", [EAGER.replace(")", ', fallback=("cuda",))'), present])
    assert (reports["eager"].status, reports["best"].status) == ("used", "used")


@pytest.mark.parametrize(
    ("name", "source", "status", "detail"),
    [
        ("raises", "def tiny_scale(out, input, weight, factor): raise KeyError('no such layer')", "failed", "no such layer"),
        ("dies", "import os\ndef tiny_scale(out, input, weight, factor): os._exit(3)", "failed", "exited with status 3"),
        ("cannot_load", "import no_such_library\ndef tiny_scale(out, input, weight, factor): pass", "not_available", "no_such_library"),
    ],
)
def test_a_broken_baseline_is_named_and_the_others_are_used(judge, name, source, status, detail):
    evaluation, reports = judge(name, [EAGER, 'Baseline(name="broken", file="broken.py")'], broken=source)
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason
    assert reports["eager"].status == "used"
    assert reports["broken"].status == status
    assert detail in reports["broken"].detail


def test_without_a_baseline_the_fault_is_ours(judge):
    evaluation, _ = judge("nothing", ['Baseline(name="best", file="eager.py", requires="no_such_package")'])
    assert evaluation.outcome is Outcome.FAULT
    assert "no_such_package" in evaluation.reason


def test_an_outclassed_baseline_is_not_timed_to_the_end(judge):
    evaluation, reports = judge("uneven", [EAGER, 'Baseline(name="slow", file="slow.py")'], slow=SLOW)
    (timing,) = evaluation.timings
    assert reports["slow"].status == "used"
    assert timing.best_baseline == "eager"
    assert timing.baselines["slow"] > timing.baselines["eager"]
    assert 0 < len(timing.baseline_samples_us["slow"]) < len(timing.baseline_samples_us["eager"]) == len(timing.candidate_samples_us)


def test_getting_rid_of_a_baseline_does_not_bring_in_the_fallback(judge, evaluator):
    from fastkernels_env import load_task
    from fastkernels_env.judge.errors import WorkerDied

    declared = [EAGER.replace(")", ', fallback=("cpu",))'), 'Baseline(name="best", file="eager.py")']
    judge("robbed", declared)
    task, pool = load_task("robbed"), evaluator.open().baselines
    for _ in range(3):
        assert set(pool.contestants(task)) == {"best"}
        pool.drop(task, "best", WorkerDied("the process ended"))
    assert pool.contestants(task) == {}
    evaluation = evaluator.evaluate("robbed", textwrap.dedent(PYTHON))
    (fault,) = evaluation.faults
    assert "no baseline" in fault
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason
    assert set(evaluation.timings[0].baselines) == {"best"}, "fresh processes brought the best one back"
