"""False alarms: a right seed is right each time, a wrong one is counted; a second call goes on where the first stopped."""

from __future__ import annotations

import pytest

from fastkernels_env.bench.alarms import read_alarms, run_alarms, seeds_on, table


@pytest.fixture
def tasks(task_files, tmp_path, monkeypatch):
    task_files(tmp_path / "tasks" / "right_scale")
    wrong = task_files.texts["cpu"].replace("* float(factor)", "")
    assert wrong != task_files.texts["cpu"]
    task_files(tmp_path / "tasks" / "wrong_scale", cpu=wrong)
    monkeypatch.setenv("FASTKERNELS_ENV_PATH", str(tmp_path / "tasks"))
    return ["right_scale", "wrong_scale"]


def test_seeds_are_judged_and_counted_once(tasks, tmp_path):
    out = tmp_path / "alarms.jsonl"
    run_alarms("cpu", tasks, 1, "quick", out)
    seen = []
    rows = run_alarms("cpu", tasks, 2, "quick", out, seen.append)
    assert len(seen) == 2
    assert rows == read_alarms(out)
    assert len({row.seed for row in rows}) == 4
    assert {row.task for row in rows if row.right} == {"right_scale"}
    assert [line[2] for line in table(rows)] == ["2 of 2", "0 of 2", "2 of 4"]
    assert "wrong by smoke" in table(rows)[1][4]


def test_only_some_files_may_be_judged(tasks, tmp_path):
    assert run_alarms("cpu", tasks, 1, "quick", tmp_path / "none.jsonl", files=["triton.py"]) == []


def test_a_device_judges_the_languages_that_it_knows():
    assert ("rms_norm", "cuda.cu") in seeds_on("cuda", ["rms_norm"])
    assert seeds_on("cpu", ["rms_norm"]) == [("rms_norm", "cpu.cpp"), ("rms_norm", "triton.py")]
