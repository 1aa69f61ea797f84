"""A task on workloads of the user's own: the name says which, and what does not fit is refused before anything is judged."""

import json
import random

import gymnasium as gym
import pytest

import fastkernels_env
from fastkernels_env import build_prompt, load_task, with_workloads
from fastkernels_env.registry import read_outline, split_name
from fastkernels_env.task import TaskError

ROW = {"name": "mine-24", "device": "cpu", "dtype": "float32", "sizes": {"T": 24, "H": 2048}, "count": 10}


@pytest.fixture
def file(tmp_path):
    def write(*rows, name="rows.jsonl"):
        path = tmp_path / name
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        return path

    return write


def test_the_workloads_of_a_file_take_the_place_of_the_public_ones(file):
    mine = {**ROW, "name": "mine-7", "sizes": {"T": 7, "H": 96}, "task": "rms_norm"}
    path = file(ROW, {**ROW, "name": "other", "task": "silu_and_mul"}, mine)
    name = with_workloads("rms_norm", path)
    task, whole = load_task(name), load_task("rms_norm")
    assert [w.name for w in task.workloads("cpu")] == ["mine-24", "mine-7"]
    assert task.workloads("cuda") == task.left_out("cpu") == []
    assert task.overflow_workloads("cuda") == whole.overflow_workloads("cuda") != []
    assert task.name == name
    assert len(whole.workloads("cpu")) == 4
    assert {w.sizes["H"] for w in task.hidden_workloads("cpu", random.Random(0), 8)} >= {2048, 96}
    assert "mine-24" in build_prompt(task, "cpu")
    assert "cpu-decode-16" not in build_prompt(task, "cpu")
    assert read_outline(name) == read_outline("rms_norm")
    assert split_name(name)[0] == "rms_norm"


def test_a_path_may_hold_what_names_use(file):
    path = file(ROW, name="a,b [1] #2.jsonl")
    for name in (with_workloads("rms_norm", path), f"rms_norm[@{path}]"):
        assert [w.name for w in load_task(name).workloads("cpu")] == ["mine-24"]


def test_a_name_always_means_the_same(file):
    name = with_workloads("rms_norm", file(ROW))
    assert with_workloads("rms_norm", file(ROW)) == name
    path = file({**ROW, "count": 11})
    with pytest.raises(TaskError, match="has changed since 'rms_norm' was named with it; name it again"):
        load_task(name)
    assert with_workloads("rms_norm", path) != name


@pytest.mark.parametrize(("row", "message"), [
    ({"sizes": {"T": 24}}, "lacks the size 'H'; expected H, T"),
    ({"sizes": {"T": 24, "H": 64, "W": 3}}, "has a size 'W' that the task does not have; known are H, T, row_stride"),
    ({"sizes": {"T": 24, "H": 64, "row_stride": 60}}, "expected row_stride of at least 64 and a multiple of 4, got 60"),
    ({"sizes": {"T": 24, "H": 64, "row_stride": 66}}, "expected row_stride of at least 64 and a multiple of 4, got 66"),
    ({"sizes": {"T": 0, "H": 64}}, "T of at least 1"),
    ({"count": 0}, "expected a count of at least 1"),
    ({"overflow": True}, "no overflow shape"),
    ({"device": "tpu"}, "is for 'tpu'; the task has cpu and cuda"),
    ({"dtype": "int8"}, "has dtype 'int8'; the task knows bfloat16, "),
    ({"task": "rope"}, "holds no workload for task 'rms_norm'"),
    ({"colour": "red"}, "line 1 is no workload"),
])
def test_a_row_that_does_not_fit_is_named(file, row, message):
    with pytest.raises(TaskError, match=message):
        with_workloads("rms_norm", file({**ROW, **row}))


def test_other_bad_files_are_named(file, tmp_path):
    with pytest.raises(TaskError, match="two workloads for cpu have the name 'mine-24'"):
        with_workloads("rms_norm", file(ROW, ROW))
    with pytest.raises(TaskError, match=r"nowhere\.jsonl cannot be read"):
        with_workloads("rms_norm", tmp_path / "nowhere.jsonl")
    with pytest.raises(TaskError, match="unknown task 'rms_nrom'"):
        with_workloads("rms_nrom", file(ROW))
    with pytest.raises(TaskError, match="has workloads of its own choice"):
        with_workloads("rms_norm[cpu-decode-16]", file(ROW))


def test_an_environment_takes_a_file(file):
    path = file({"name": "wide", "device": "cpu", "dtype": "float32", "sizes": {"T": 6, "H": 40}, "count": 2})
    env = gym.make("FastKernels/rms_norm-v0", device="cpu", effort="quick", workloads=path)
    try:
        observation, _ = env.reset(seed=0)
        assert "T = 6, H = 40" in observation["prompt"]
        _, _, terminated, _, info = env.step(env.action_space.sample())
        assert terminated
        assert [timing["workload"] for timing in json.loads(info["report"])["timings"]] in (["wide"], [])
    finally:
        env.close()


def test_judges_in_processes_of_their_own_read_the_file(file):
    name = with_workloads("rms_norm", file(ROW))
    with fastkernels_env.Evaluator("cpu", effort="quick", judges=1) as evaluator:
        record = evaluator.evaluate(name, f"```cpp\n{load_task(name).seeds()['cpu.cpp']}\n```")
    assert record.task == name
    assert [timing.workload for timing in record.timings] == ["mine-24"]
