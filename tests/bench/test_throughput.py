"""Throughput is counted over real evaluations, and compared with a loop of real processes."""

from __future__ import annotations

import pytest

from fastkernels_env.bench.throughput import lines, marked, run_throughput, submissions
from fastkernels_env.registry import load_task, task_folders
from fastkernels_env.submission import extract


def test_every_submission_is_another_source_and_still_a_solution():
    count = 2 * len(task_folders())
    items = list(submissions("cpu", list(task_folders()), ["cpu.cpp"], count))
    codes = {extract(item.text, load_task(item.task), "cpu").code for item in items}
    assert len(codes) == count
    assert len({item.task for item in items}) == len(task_folders())


@pytest.mark.parametrize("file", ["triton.py", "cuda.cu", "cpu.cpp"])
def test_a_mark_changes_the_source_of_every_kernel(file):
    source = load_task("rms_norm").seeds()[file]
    one, other = marked(source, file, 1), marked(source, file, 2)
    assert one != other
    submission = extract(one, load_task("rms_norm"), "cuda" if file != "cpu.cpp" else "cpu")
    assert submission.kernels == extract(source, load_task("rms_norm"), "cuda" if file != "cpu.cpp" else "cpu").kernels
    if file == "triton.py":
        assert one.count("    # 1\n") == source.count("\ndef ")


def test_a_batch_ends_when_its_time_is_over(host_cache):
    told = []
    with pytest.raises(RuntimeError, match="none of 2 submissions was answered within 1 s"):
        run_throughput("cpu", ["silu_and_mul"], ["cpu.cpp"], 2, "quick", 1, 0, 0, told.append, within=1)
    assert told == ["1 s are over: 2 submissions are left without an answer"]


def test_a_batch_is_counted_and_compared(host_cache):
    told = []
    result = run_throughput("cpu", ["silu_and_mul"], ["cpu.cpp"], 3, "quick", 2, 1, 1, told.append)
    assert result.outcomes == {"accepted": 3}
    assert result.judges == 2
    assert len(told) == 3
    assert 0 < result.alone_share < 1
    assert result.per_minute == pytest.approx(180 / result.seconds)
    assert set(result.busy.core_seconds) == {"judges", "submissions", "compilers", "others"}
    assert all(seconds > 0 for seconds in result.busy.core_seconds.values())
    assert result.busy.gpu is None
    assert result.usual is not None
    assert (result.usual.count, result.usual.right) == (1, 1)
    assert [row.seed for row in result.load] == ["silu_and_mul/cpp"]
    assert {"build", "profile", "alone", "waited"} <= set(result.stages)
    assert list(result.tasks) == ["silu_and_mul"]
    assert any("evaluations per minute" in line for line in lines(result))
