"""The seeds of every task are accepted on the GPU, and the memory-bound ones are near the copy bandwidth."""

from __future__ import annotations

import pytest

from fastkernels_env.registry import load_task, task_folders
from fastkernels_env.types import Outcome

SEEDS = [(name, seed) for name in task_folders() for seed in ("triton.py", "cuda.cu") if (task_folders()[name] / "seeds" / seed).exists()]


@pytest.mark.parametrize(("task", "seed"), SEEDS)
def test_seed_is_accepted(judge, record, task, seed):
    evaluation = judge.evaluate(task, load_task(task).seeds()[seed])
    record(evaluation)
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.feedback
    assert all(timing.mode == "graph" for timing in evaluation.timings), [timing.mode for timing in evaluation.timings]
    assert evaluation.own_kernel_share is not None
    assert evaluation.own_kernel_share > 0.5


def test_every_baseline_is_reported(judge):
    task = load_task("rms_norm")
    evaluation = judge.evaluate("rms_norm", task.seeds()["triton.py"], effort="quick")
    assert {report.name for report in evaluation.baselines} == {b.name for b in task.baselines if "cuda" in b.devices}
