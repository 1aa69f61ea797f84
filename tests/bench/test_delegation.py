"""Handing all work to a baseline is legal and earns nothing."""

from __future__ import annotations

import pytest

from fastkernels_env.bench.delegation import run_delegation, submission
from fastkernels_env.registry import load_task, task_folders
from fastkernels_env.submission import extract

SOURCES = [(task, baseline.file) for task in task_folders() for baseline in load_task(task).baselines if not baseline.compile]


@pytest.mark.parametrize(("task", "file"), SOURCES, ids=lambda part: part)
def test_every_baseline_can_be_submitted(task, file):
    code = extract(submission(task, file), load_task(task), "cuda")
    text = (load_task(task).folder / "baselines" / file).read_text()
    assert (code.has_prepare, code.has_plan) == ("def prepare(" in text, "def plan(" in text)


def test_a_baseline_against_itself_is_accepted_and_not_faster(host_cache):
    rows = run_delegation("cpu", ["silu_and_mul"], effort="quick")
    assert [(row.task, row.baseline, row.outcome) for row in rows] == [("silu_and_mul", "eager", "accepted")]
    assert all(row.good for row in rows)
