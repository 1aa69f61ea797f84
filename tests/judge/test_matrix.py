"""The verification matrix over whole trials: what each kernel fails, and that the same seed gives the same verdict."""

from __future__ import annotations

import textwrap

import pytest

from fastkernels_env.build import Build
from fastkernels_env.checks import CheckList
from fastkernels_env.judge.effort import get_effort
from fastkernels_env.judge.trial import Trial
from fastkernels_env.registry import load_task
from fastkernels_env.submission import extract
from fastkernels_env.types import Stage, Status

SLOPPY = """
    import torch


    def tiny_scale(out, input, weight, factor):
        torch.mul(input, weight, out=out)
        out.mul_(factor * (1 + 1e-4))
"""
BOTH = '(Baseline(name="sloppy", file="sloppy.py"), Baseline(name="eager", file="eager.py"))'
KERNEL = """
    import torch

    memory = {"calls": 0}


    def tiny_scale(out, input, weight, factor):
        memory["calls"] += 1
        rows, width = out.shape
        torch.mul(input, weight, out=out)
        out.mul_(factor)
        BODY
"""
KERNELS = {
    "right": "",
    "off by half a part in ten thousand": "out.mul_(1.00005)",
    "one column a tenth of a percent too large": "out[:, 12:13].mul_(1.001)",
    "reads the gap": "if rows > 1 and input.stride(0) > width: out.add_(input.as_strided((rows - 1, 1), input.stride(), "
                     "input.storage_offset() + width).sum() * 0)",
    "ignores the stride": "out.copy_(input.as_strided((rows, width), (width, 1)) * weight * factor)",
    "needs 64-byte rows": "if input.data_ptr() % 64: out.zero_()",
    "ignores one row of odd counts": "if rows % 16 == 1: out[-1].zero_()",
    "alternates": "out.mul_(1.000008 if memory['calls'] % 2 else 0.999992)",
    "answers from memory": "key = (rows, *input[:1, 0].tolist()); out.copy_(memory.setdefault(key, out.clone()))",
    "writes to the call before": "last = memory.get('last'); memory['last'] = out if rows else last; last is None or last[0].neg_()",
}


@pytest.fixture
def trial(evaluator, tmp_path, task_files, monkeypatch):
    """Checks of a kernel that went through smoke and verification."""

    def run(kernel, seed=11, baselines=None, effort="full"):
        source = task_files.texts["task"]
        if baselines:
            source = source.replace('(Baseline(name="eager", file="eager.py"),)', baselines)
        name = f"tiny_{abs(hash((kernel, baselines))) % 10**8}"
        folder = task_files(tmp_path / name, task=source)
        (folder / "baselines" / "sloppy.py").write_text(textwrap.dedent(SLOPPY).lstrip())
        monkeypatch.setenv("FASTKERNELS_ENV_PATH", str(tmp_path))
        task, judge, checks = load_task(name), evaluator.open(), CheckList("cpu")
        code = textwrap.dedent(KERNEL).replace("BODY", KERNELS[kernel])
        with Build(extract(f"```python\n{code}\n```", task, "cpu")) as build, judge.device.judging():
            trial = Trial(judge, task, seed, get_effort(effort), checks)
            trial.run(build.result(), (), profile=False)
        assert trial.error is None, trial.output
        return checks

    return run


def failed(checks):
    return {check.name for check in checks.finish("") if check.status is Status.FAILED}


def unknown(checks):
    return {check.name for check in checks.finish("") if check.stage is Stage.VERIFY and check.status is Status.NOT_RUN}


@pytest.mark.parametrize("effort", ["quick", "full"])
def test_a_right_kernel_passes_every_check_that_applies(trial, effort):
    checks = trial("right", effort=effort)
    assert failed(checks) == set()
    assert unknown(checks) == {"skewed_inputs", "overflow_sizes"}


@pytest.mark.parametrize(
    ("kernel", "some"),
    [
        ("off by half a part in ten thousand", {"public_shapes", "hidden_shapes"}),
        ("one column a tenth of a percent too large", {"public_shapes"}),
        ("reads the gap", {"public_shapes"}), ("ignores the stride", {"public_shapes"}),
        ("needs 64-byte rows", {"public_shapes", "hidden_shapes"}),
        ("alternates", {"determinism"}), ("answers from memory", {"perturbation"}), ("writes to the call before", {"aliasing"}),
    ],
)  # fmt: skip
def test_a_wrong_kernel_fails_the_check_that_names_its_mistake(trial, kernel, some):
    assert failed(trial(kernel)) & some


def test_the_best_baseline_sets_the_limit_and_not_the_first(trial):
    kernel = "off by half a part in ten thousand"
    assert failed(trial(kernel, baselines='(Baseline(name="sloppy", file="sloppy.py"),)')) == set()
    assert "public_shapes" in failed(trial(kernel, baselines=BOTH))


def test_sizes_at_the_edge_of_a_tile_are_drawn(trial):
    assert any("hidden_shapes" in failed(trial("ignores one row of odd counts", seed)) for seed in range(8))


@pytest.mark.parametrize("kernel", ["right", "ignores one row of odd counts", "reads the gap"])
def test_a_seed_gives_the_same_verdict_again(trial, kernel):
    assert trial(kernel, 7).finish("") == trial(kernel, 7).finish("")


def test_feedback_names_the_part_and_the_sizes(trial):
    detail = next(check.detail for check in trial("one column a tenth of a percent too large").finish("") if check.name == "public_shapes")
    assert "worst column 12" in detail
    assert "T=16, H=64" in detail
