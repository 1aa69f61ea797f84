"""Baselines are built, tried on the shapes that will be timed, verified, and remembered."""

import json
import os
import subprocess
import sys

import pytest

from fastkernels_env.protocol import TensorRef
from fastkernels_env.registry import load_task
from fastkernels_env.warm import warm, warm_table
from fastkernels_env.worker.memory import Arena

EAGER = 'Baseline(name="eager", file="eager.py")'
FOUR = ", ".join([
    EAGER,
    'Baseline(name="wrong", file="wrong.py")',
    'Baseline(name="raises", file="raises.py")',
    'Baseline(name="dies", file="dies.py")',
    'Baseline(name="absent", file="eager.py", requires="no_such_package")',
])
SHAPES = "import torch\n\n\ndef tiny_scale(out, input, weight, factor):\n"
OTHERS = {
    "wrong": SHAPES + "    torch.mul(input, factor, out=out)\n",
    "raises": SHAPES + "    if input.stride(0) > input.shape[1]:\n        raise ValueError('rows must be dense')\n    "
    "torch.mul(input * weight, factor, out=out)\n",
    "dies": SHAPES + "    import os\n    os._exit(3)\n",
}


@pytest.fixture
def judge(evaluator):
    return evaluator.open()


@pytest.fixture
def make_task(tmp_path, task_files, monkeypatch):
    """A variant of the quick task under a name of its own: what was warmed is remembered by name."""
    monkeypatch.setenv("FASTKERNELS_ENV_PATH", str(tmp_path))

    def make(name, **changed):
        folder = task_files(tmp_path / name, **changed)
        for stem, text in OTHERS.items():
            (folder / "baselines" / f"{stem}.py").write_text(text)
        return load_task(name)

    return make


def test_only_right_baselines_that_run_are_used(judge, make_task, task_files):
    texts = task_files.texts["task"].replace(EAGER, FOUR)
    assert texts != task_files.texts["task"]
    task = make_task("warm_four", task=texts)
    steps = []
    results = {result.baseline: result for result in warm(judge, [task], progress=steps.append)}
    statuses = {name: result.status for name, result in results.items()}
    assert statuses == {"eager": "used", "wrong": "failed", "raises": "failed", "dies": "failed", "absent": "not_available"}
    assert "smoke case" in results["wrong"].detail
    assert "rows must be dense" in results["raises"].detail
    assert "exited with status 3" in results["dies"].detail
    assert "no_such_package" in results["absent"].detail
    assert list(judge.contestants(task, compiled=True)) == ["eager"]
    assert judge.warmed["warm_four"] == statuses
    assert [step for step in steps if "eager" in step] == ["warm_four: eager"]


def test_is_done_once_unless_forced(judge, make_task):
    task = make_task("warm_once")
    assert [result.seconds is None for result in warm(judge, [task])] == [False]
    steps = []
    assert [(r.status, r.seconds) for r in warm(judge, [task], progress=steps.append)] == [("used", None)]
    assert not any("eager" in step for step in steps)
    assert [result.seconds is None for result in warm(judge, [task], force=True)] == [False]


def test_every_public_workload_is_run(judge, make_task, tmp_path, task_files):
    seen = tmp_path / "seen"
    eager = f"def tiny_scale(out, input, weight, factor):\n    print(input.shape, input.stride(), file=open({str(seen)!r}, 'a'))\n"
    make_task("warm_shapes", eager=eager + "    out.copy_(input * weight * factor)\n")
    warm(judge, [load_task("warm_shapes")])
    public = {f"torch.Size([16, 64]) ({stride}, 1)" for stride in (64, 80)}
    assert set(seen.read_text().splitlines()) == public


def test_broken_task_is_reported_and_the_next_one_is_warmed(judge, make_task, task_files):
    broken = make_task("warm_broken", task=task_files.texts["task"].replace('args["factor"]}', 'args["facto"]}'))
    whole = make_task("warm_whole")
    first, second = warm(judge, [broken, whole])
    assert (first.task, first.baseline, first.status) == ("warm_broken", "", "fault")
    assert "'warm_broken'" in first.detail
    assert (second.task, second.status) == ("warm_whole", "used")


def test_baseline_that_is_no_python_is_a_fault(judge, make_task):
    (result,) = warm(judge, [make_task("warm_syntax", eager="def tiny_scale(out,")])
    assert result.status == "fault"
    assert "'warm_syntax'" in result.detail
    assert "SyntaxError" in result.detail


def test_task_without_a_workload_for_the_device_is_left_out(judge, make_task, task_files):
    texts = {name: task_files.texts[name].replace('"cpu"', '"cuda"') for name in ("task", "workloads")}
    assert warm(judge, [make_task("warm_elsewhere", **texts)]) == []


def test_table_has_a_row_for_each_baseline(judge, make_task):
    results = warm(judge, [make_task("warm_table")])
    assert warm_table(results, "cpu").row_count == len(results) == 1


def test_arguments_of_a_worker_share_no_storage():
    """torch.compile takes tensors of one storage for aliases and then refuses some baselines that mutate them."""
    descriptor = os.memfd_create("arena")
    os.ftruncate(descriptor, 4096)
    arena = Arena("cpu", os.dup(descriptor), 4096)
    first = arena.tensor(TensorRef(0, 256, (2, 3), (8, 1), "bfloat16"))
    second = arena.tensor(TensorRef(0, 1024, (4,), (1,), "int64"))
    assert first.untyped_storage().data_ptr() != second.untyped_storage().data_ptr()
    assert (first.shape, first.stride(), first.storage_offset()) == ((2, 3), (8, 1), 0)
    second.fill_(-1)
    assert os.pread(descriptor, 8 * 6, 1016) == bytes(8) + b"\xff" * 32 + bytes(8)
    os.close(descriptor)


def test_command_line(tiny_root, tmp_path):
    environment = {**os.environ, "FASTKERNELS_ENV_PATH": str(tiny_root), "FASTKERNELS_CACHE": str(tmp_path), "COLUMNS": "100"}
    command = [sys.executable, "-m", "fastkernels_env", "warm", "tiny_scale", "--device", "cpu"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    assert (done.returncode, done.stderr) == (0, "")
    row = next(line.split() for line in done.stdout.splitlines() if line.startswith("tiny_scale"))
    assert row[1:3] == ["eager", "used"]
    (record,) = tmp_path.glob("cpu-*/host.json")
    kept = json.loads(record.read_text())
    assert kept["warmed"] == {"tiny_scale": {"eager": "used"}}
    assert kept["peaks"]["copy_bytes_per_s"] > 0
