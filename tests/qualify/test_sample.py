"""Two automatic mutants of a task are rejected: of some tasks in a run, of others in the next one. `make qualify` judges many more."""

import pytest

from fastkernels_env.qualify.candidates import candidates
from fastkernels_env.qualify.records import Status
from fastkernels_env.qualify.report import OPEN
from fastkernels_env.qualify.runner import Runner
from fastkernels_env.registry import load_task, task_folders

EACH = 2


@pytest.mark.sampled("name", take=6)
@pytest.mark.parametrize("name", task_folders())
def test_a_sample_is_rejected(name, evaluator):
    task, results = load_task(name), []
    chosen = [c for c in candidates(task, "cpu", 12, 0) if c.kind == "auto" and c.seed == "cpu.cpp" and not c.equivalent]
    Runner(evaluator, task, 0).run(chosen[-EACH:], results.append)
    assert [r for r in results if r.status in (*OPEN, Status.ERROR, Status.WEAK)] == []
    assert any(r.status is Status.KILLED for r in results)
