"""Verification on a GPU, without the clock: seeds pass the whole matrix, offsets in 32 bits and stale answers do not."""

from __future__ import annotations

import contextlib
import secrets
import time

import pytest

from fastkernels_env.build import Build
from fastkernels_env.checks import CheckList
from fastkernels_env.judge.effort import get_effort
from fastkernels_env.judge.trial import Trial
from fastkernels_env.registry import load_task, task_folders
from fastkernels_env.submission import extract
from fastkernels_env.types import Stage, Status

SEEDS = [(name, seed) for name in task_folders() for seed in ("triton.py", "cuda.cu") if (task_folders()[name] / "seeds" / seed).exists()]


@pytest.fixture
def verify(judge):
    """Checks of a source after smoke and verification, and what ended the trial early."""
    opened = judge.open()

    def run(name, source, effort="full", runs=1):
        task = load_task(name)
        submission = extract(source, task, "cuda")
        with Build(submission) as build:
            artifact = build.result()
            for _ in range(runs):
                checks = CheckList("cuda")
                trial = Trial(opened, task, secrets.randbits(48), get_effort(effort), checks)
                with contextlib.closing(trial), opened.device.judging():
                    trial.run(artifact, submission.kernels, profile=False)
                yield checks, trial

    return run


def failures(checks):
    return [f"{check.name}: {check.detail}" for check in checks.finish("") if check.status is Status.FAILED]


@pytest.mark.parametrize(("name", "seed"), SEEDS)
def test_a_seed_passes_the_whole_matrix(verify, name, seed):
    start = time.perf_counter()
    [(checks, trial)] = verify(name, load_task(name).seeds()[seed])
    print(f"\n{name} {seed}: {time.perf_counter() - start:.1f} s, {trial.seconds}")
    assert trial.error is None, trial.output
    assert failures(checks) == []
    verified = {check.name: check for check in checks.finish("") if check.stage is Stage.VERIFY}
    print({name: check.detail for name, check in verified.items() if check.name in ("overflow_sizes", "perturbation")})
    assert verified["overflow_sizes"].status is Status.PASSED, verified["overflow_sizes"].detail
    for check in ("aliasing", "determinism", "perturbation"):
        assert verified[check].status is Status.PASSED, verified[check]


@pytest.mark.parametrize("name", task_folders())
def test_seeds_raise_no_false_alarm(verify, name):
    """Quick: the public smoke shape, three hidden shapes and a probe, five times."""
    for checks, trial in verify(name, load_task(name).seeds()["triton.py"], "quick", runs=5):
        assert trial.error is None, trial.output
        assert failures(checks) == [], trial.scope.seed
        assert checks.has("overflow_sizes", Status.NOT_RUN)
        assert "overflow_sizes" not in checks.missing()


NARROW = {
    "rms_norm": [("tl.program_id(0).to(tl.int64)", "tl.program_id(0)")],
    "fused_add_rms_norm": [("tl.program_id(0).to(tl.int64) * width", "tl.program_id(0) * width")],
    "silu_and_mul": [("tl.arange(0, ROWS)).to(tl.int64)[:, None]", "tl.arange(0, ROWS))[:, None]")],
    "rope": [("token = tl.program_id(0).to(tl.int64)", "token = tl.program_id(0)")],
    "gqa_decode": [("mask=t < end, other=0).to(tl.int64)", "mask=t < end, other=0)")],
    "linear_decode": [("tl.minimum(n, columns - 1).to(tl.int64)[:, None]", "tl.minimum(n, columns - 1)[:, None]")],
    "moe_gemm": [("expert = tl.load(expert_ids + block).to(tl.int64)", "expert = tl.load(expert_ids + block)")],
    "fused_experts": [("return tl.where(expert < experts, expert, -1).to(tl.int64)", "return tl.where(expert < experts, expert, -1)")],
}


@pytest.mark.parametrize("name", NARROW)
def test_offsets_in_32_bits_are_caught_and_by_nothing_else(verify, name):
    source = load_task(name).seeds()["triton.py"]
    for find, replace in NARROW[name]:
        assert source.count(find) == 1
        source = source.replace(find, replace)
    [(checks, trial)] = verify(name, source)
    failed = {line.partition(":")[0] for line in failures(checks)}
    print(f"\n{name}: {failures(checks)} {trial.error and trial.error.summary}")
    # Where an offset wraps below the tensor the access may be illegal: then the process ends instead.
    assert failed == {"overflow_sizes"} or (failed == set() and trial.error is not None)


STALE = """
import torch

held = {}


def rms_norm(out, input, weight, epsilon):
    BEFORE
    x = input.float()
    out.copy_(x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon) * weight.float())
    AFTER
"""


@pytest.mark.parametrize(
    ("before", "after", "check"),
    [
        ("", "", None),
        ("", "last, held['last'] = held.get('last'), out if out.numel() else held.get('last'); last is None or last[0].neg_()", "aliasing"),
        ("weight = held.setdefault(weight.shape, weight.clone())", "", "perturbation"),
        ("held['n'] = held.get('n', 0) + 1; weight = weight.float() * (1.0022 if held['n'] % 2 else 0.9978)", "", "determinism"),
    ],
)
def test_probes_catch_what_they_are_for(verify, before, after, check):
    found = []
    for checks, trial in verify("rms_norm", STALE.replace("BEFORE", before).replace("AFTER", after), "quick", runs=4):
        assert trial.error is None, trial.output
        found += failures(checks)
    assert any(line.startswith(check) for line in found) if check else found == [], found
