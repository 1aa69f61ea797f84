"""GPU evidence: every test here runs a real evaluation on a CUDA device; the summary table comes out at the end.

`FASTKERNELS_TABLE=FILE` also writes the table as Markdown, with date, versions and device.
"""

from __future__ import annotations

import datetime
import os
from pathlib import Path

import pytest

from fastkernels_env.device import cuda_present, most_ranks
from fastkernels_env.evaluator import Evaluator
from fastkernels_env.registry import load_task, task_folders
from fastkernels_env.types import Evaluation

ROWS: list[Evaluation] = []


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in Path(item.fspath).parents:
            item.add_marker(pytest.mark.gpu)
            if not cuda_present():
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
            elif _ranks(item) > most_ranks("cuda"):
                item.add_marker(pytest.mark.skip(reason="fewer GPUs than ranks"))


def _ranks(item):
    """How many ranks the task has that a test is about."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    name = params.get("name") or params.get("task")
    return load_task(name).ranks if name in task_folders() else 1


@pytest.fixture(scope="session", autouse=True)
def host_cache():
    """The host's own cache: `fastkernels-env warm` has built the baselines there."""


@pytest.fixture(scope="session")
def judge():
    with Evaluator("cuda") as evaluator:
        yield evaluator


@pytest.fixture
def record():
    """Adds an evaluation to the summary table."""
    return ROWS.append


def pytest_terminal_summary(terminalreporter):
    if ROWS:
        text = table(ROWS)
        terminalreporter.write_line("")
        terminalreporter.write_line(text)
        if path := os.environ.get("FASTKERNELS_TABLE"):
            Path(path).write_text(text + "\n")


def table(rows: list[Evaluation]) -> str:
    """The summary as Markdown."""
    first = rows[0]
    packages = ", ".join(f"{name} {version}" for name, version in first.versions.items())
    lines = [
        f"{datetime.date.today().isoformat()}, {first.device.name} host, {packages}.", "",
        "| task | seed | outcome | baseline per workload | speedup (95 % interval) | speed of light, largest workload | own kernels | "
        "seconds: build, smoke, verify, profile |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join(lines + [_row(row) for row in rows])


def _row(row: Evaluation) -> str:
    speedup = f"{row.speedup.estimate:.3f} ({row.speedup.low:.3f} to {row.speedup.high:.3f})" if row.speedup else "-"
    largest = max(row.timings, key=lambda timing: timing.candidate_us, default=None)
    light = f"{largest.speed_of_light:.2f} ({largest.workload})" if largest and largest.speed_of_light else "-"
    baselines = ", ".join(dict.fromkeys(timing.best_baseline for timing in row.timings)) or "-"
    share = f"{row.own_kernel_share:.2f}" if row.own_kernel_share is not None else "-"
    seconds = ", ".join(f"{row.seconds.get(stage, 0.0):.1f}" for stage in ("build", "smoke", "verify", "profile"))
    language = {"python": "Triton", "cuda": "CUDA C++"}[row.language]
    return f"| {row.task} | {language} | {row.outcome.value} | {baselines} | {speedup} | {light} | {share} | {seconds} |"
