import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastkernels_env import build_prompt, load_task, rows
from fastkernels_env._arguments import check_task
from fastkernels_env._hidden import draw_apart, shape_key
from fastkernels_env._terminal import Problem
from fastkernels_env.prompt import prompt_hash
from fastkernels_env.registry import read_outline, split_name, task_folders
from fastkernels_env.task import TaskError

DEVICES = pytest.mark.parametrize("device", ["cpu", "cuda"])
PLAIN = [name for name in task_folders() if load_task(name).ranks == 1]


@DEVICES
def test_every_workload_is_in_one_split(device):
    train, heldout, both = (rows(split, device=device) for split in ("train", "heldout", "all"))
    named = [row["task"] for row in both]
    assert named == [f"{name}[{w.name}]" for name in PLAIN for w in load_task(name).workloads(device)]
    assert sorted(row["task"] for row in train + heldout) == sorted(named)
    assert {row["split"] for row in train} == {"train"}
    assert {row["held_out"] for row in train} == {""}
    assert {row["split"] for row in heldout} == {"heldout"}
    assert {row["held_out"] for row in heldout} == {"task", "workload"}


@DEVICES
def test_a_row_is_complete(device):
    for row in rows("all", device=device, tasks=["rope"]):
        task = load_task(row["task"])
        assert row["prompt"] == [{"role": "user", "content": row["prompt_text"]}]
        assert row["prompt_text"] == build_prompt(task, device)
        assert row["prompt_hash"] == prompt_hash(row["prompt_text"])
        assert row["device"] == device


def shape_of(name, device):
    task = load_task(name)
    (workload,) = task.workloads(device)
    return split_name(name)[0], shape_key(task, workload)


@DEVICES
@settings(max_examples=20)
@given(tasks=st.floats(0, 1), workloads=st.floats(0, 1))
def test_no_shape_of_a_task_is_in_both_splits(device, tasks, workloads):
    arguments = {"device": device, "hold_out_tasks": tasks, "hold_out_workloads": workloads}
    train, heldout = rows("train", **arguments), rows("heldout", **arguments)
    assert {shape_of(row["task"], device) for row in train}.isdisjoint(shape_of(row["task"], device) for row in heldout)
    whole = {split_name(row["task"])[0] for row in heldout if row["held_out"] == "task"}
    left = {split_name(row["task"])[0] for row in train}
    assert whole.isdisjoint(left)
    if workloads < 1:
        # Of a task that is not held out something is left to train on.
        assert left | whole == {name for name in PLAIN if load_task(name).workloads(device)}


@DEVICES
def test_a_training_prompt_names_no_held_out_workload(device):
    held = {split_name(row["task"]) for row in rows("heldout", device=device)}
    for row in rows("train", device=device):
        task, (own,) = split_name(row["task"])
        assert f"| {own} |" in row["prompt_text"]
        assert not any(f"| {name} |" in row["prompt_text"] for known, (name,) in held if known == task)


def test_the_split_of_a_task_does_not_depend_on_the_others():
    together = {row["task"]: row["split"] for row in rows("all", device="cpu")}
    for name in PLAIN:
        alone = {row["task"]: row["split"] for row in rows("all", device="cpu", tasks=[name])}
        assert alone.items() <= together.items()


def test_shares_of_nothing_and_of_everything():
    nothing = {"hold_out_tasks": 0, "hold_out_workloads": 0}
    assert rows("heldout", device="cpu", **nothing) == []
    assert rows("train", device="cpu", **nothing | {"hold_out_tasks": 1}) == []
    assert rows("train", device="cpu", **nothing | {"hold_out_workloads": 1}) == []


def test_names_hold_out_what_they_name():
    found = rows("heldout", device="cpu", hold_out_tasks=["rope"], hold_out_workloads=["rms_norm[cpu-mla-latent]"])
    assert {row["task"] for row in found if row["held_out"] == "workload"} == {"rms_norm[cpu-mla-latent]"}
    assert {split_name(row["task"])[0] for row in found if row["held_out"] == "task"} == {"rope"}


def test_tasks_of_several_ranks_are_asked_for_by_name():
    assert "moe_dispatch" not in {split_name(row["task"])[0] for row in rows("all", device="cpu")}
    assert rows("all", device="cpu", tasks=["moe_dispatch"])


@pytest.mark.parametrize(("arguments", "error", "message"), [
    ({"split": "test"}, ValueError, "expected split to be one of 'train', 'heldout', 'all', got 'test'"),
    ({"tasks": ["nope"]}, TaskError, "unknown task 'nope'"),
    ({"tasks": "rope"}, TaskError, r"expected tasks to be a list of names, got the text 'rope'; write \['rope'\]"),
    ({"tasks": ["rope[decode-64]"]}, TaskError, "no public workload for device 'cpu'"),
    ({"hold_out_tasks": 1.5}, ValueError, "expected hold_out_tasks to be a share from 0 to 1, or names, got 1.5"),
    ({"hold_out_workloads": True}, ValueError, "expected hold_out_workloads to be a share"),
    ({"hold_out_tasks": "rope"}, ValueError, "or a list of names, got the text 'rope'"),
    ({"hold_out_tasks": ["nope"]}, TaskError, "hold_out_tasks: there is no 'nope' among the rows"),
    ({"hold_out_workloads": ["rope[nope]"]}, TaskError, r"hold_out_workloads: there is no 'rope\[nope\]' among the rows"),
])
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        rows(**{"device": "cpu"} | arguments)


def test_a_confined_task_has_its_workloads_alone():
    whole, confined = load_task("rms_norm"), load_task("rms_norm[cpu-mla-latent, cpu-decode-16]")
    assert confined.name == "rms_norm[cpu-decode-16,cpu-mla-latent]"
    assert confined is load_task(confined.name)
    assert [w.name for w in confined.workloads("cpu")] == ["cpu-decode-16", "cpu-mla-latent"]
    assert [w.name for w in confined.left_out("cpu")] == ["cpu-prefill-256", "cpu-prefill-256-bf16"]
    assert confined.smoke_workload("cpu").name == "cpu-decode-16"
    assert whole.name == "rms_norm"
    assert len(whole.workloads("cpu")) == 4
    assert whole.left_out("cpu") == confined.workloads("cuda") == []
    assert confined.overflow_workloads("cuda") == whole.overflow_workloads("cuda") != []
    assert read_outline("rms_norm[cpu-decode-16]") == read_outline("rms_norm")


@pytest.mark.parametrize(("name", "message"), [
    ("rms_norm[nope]", "task 'rms_norm' has no public workload 'nope'; known are: cpu-decode-16, "),
    ("rms_norm[]", "task 'rms_norm' has no public workload ''"),
    ("rms_norm[cpu-decode-16", r"unknown task 'rms_norm\[cpu-decode-16'; known are: "),
    ("nope[cpu-decode-16]", "unknown task 'nope'; known are: "),
])
def test_names_that_mean_nothing(name, message):
    with pytest.raises(TaskError, match=message):
        load_task(name)


@pytest.mark.parametrize("name", ["rms_norm[decode-64,mla-latent]", "silu_and_mul[decode-64]", "moe_gemm[up-64]"])
def test_hidden_sizes_avoid_what_is_left_out(name):
    task = load_task(name)
    left_out = {shape_key(task, workload) for workload in task.left_out("cuda")}
    met = 0
    for seed in range(300):
        rng = random.Random(seed)
        met += not left_out.isdisjoint(shape_key(task, w) for w in task.hidden_workloads("cuda", rng, 8))
        assert left_out.isdisjoint(shape_key(task, w) for w in draw_apart(task, "cuda", rng, 8))
    if name.startswith("silu"):
        assert met  # chance alone would have met one


def test_hidden_sizes_of_a_whole_task_are_as_they_were():
    task = load_task("rope")
    assert draw_apart(task, "cuda", random.Random(7), 12) == task.hidden_workloads("cuda", random.Random(7), 12)


def test_a_confined_task_travels_under_its_own_name(tiny_root, monkeypatch):
    from fastkernels_env.fleet.travel import pack, unpack
    from fastkernels_env.registry import _registered

    monkeypatch.setattr("fastkernels_env.fleet.travel._unpacked", {})
    archive = pack(tiny_root / "tiny_scale")
    monkeypatch.delenv("FASTKERNELS_ENV_PATH", raising=False)
    try:
        unpack("tiny_scale[strided]", archive)
        assert [w.name for w in load_task("tiny_scale[strided]").workloads("cpu")] == ["strided"]
    finally:
        _registered.pop("tiny_scale", None)


def test_the_command_line_names_what_is_meant():
    check_task("rope[cpu-decode-64]", confined=True)
    for name, message in (
        ("rope[cpu-decode]", "task 'rope' has no workload 'cpu-decode'; did you mean cpu-decode-64"),
        ("rop[x]", "no task 'rop'; did you mean rope"),
    ):
        with pytest.raises(Problem, match=message):
            check_task(name, confined=True)
    with pytest.raises(Problem, match="no task 'rope"):  # whole tasks alone
        check_task("rope[cpu-decode-64]")
