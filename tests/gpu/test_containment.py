"""Containment on a GPU: both languages build and run with every layer, and what a submission does to the device ends with it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch

from fastkernels_env.evaluator import Evaluator
from fastkernels_env.judge import matrix, scope
from fastkernels_env.registry import load_task
from fastkernels_env.sandbox.layers import LAYERS
from fastkernels_env.sandbox.nvml import device_memory_by_process, device_memory_total
from fastkernels_env.types import Outcome

SEEDS = load_task("rms_norm").seeds()
HEAD = """
import ctypes
import os
import socket
import time

import torch
import triton
import triton.language as tl
"""
ENTRY = "def rms_norm(out, input, weight, epsilon):\n"
HOG = HEAD + ENTRY + """
    held = []
    while True:
        try:
            held.append(torch.empty(1 << 30, dtype=torch.uint8, device=out.device).fill_(1))
        except torch.OutOfMemoryError:
            time.sleep(1)
"""
FOREVER = HEAD + """
@triton.jit
def _spin(flag):
    while tl.load(flag, volatile=True) != 12345:
        pass


def rms_norm(out, input, weight, epsilon):
    _spin[(1,)](torch.zeros(1, dtype=torch.int32, device=out.device))
    torch.cuda.synchronize()
"""
ILLEGAL = HEAD + """
@triton.jit
def _stray(out):
    tl.store(out + (1 << 44) + tl.program_id(0), 1.0)


def rms_norm(out, input, weight, epsilon):
    _stray[(64,)](out)
"""
ASSERT = HEAD + ENTRY + """
    torch.zeros(4, device=out.device)[torch.tensor([1 << 40], device=out.device)] = 1
"""
ORPHAN = HEAD + ENTRY + """
    if os.fork() == 0:
        os.setsid()
        while True:
            time.sleep(1)
    raise ValueError("one is left")
"""
INSIDE = SEEDS["triton.py"].replace("import triton\n", """import os
import socket

import triton

assert not os.path.exists("/root/.bashrc")
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
assert status["NoNewPrivs"].strip() == "1" and status["Seccomp"].strip() == "2"
for family, kind in ((socket.AF_INET, socket.SOCK_STREAM), (socket.AF_INET, socket.SOCK_DGRAM), (socket.AF_UNIX, socket.SOCK_STREAM)):
    try:
        socket.socket(family, kind)
    except PermissionError:
        continue
    raise AssertionError((family, kind))
""", 1)


@pytest.fixture(scope="module")
def judge():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matrix, "FIRST_CALL_SECONDS", 10.0)
        patch.setattr(scope, "CALL_SECONDS", 6.0)
        with Evaluator("cuda", effort="quick", strict=True) as evaluator:
            first = evaluator.evaluate("rms_norm", SEEDS["triton.py"])
            assert first.outcome is Outcome.ACCEPTED, first.feedback
            yield evaluator


def free_memory():
    torch.cuda.empty_cache()
    torch.cuda.synchronize()
    return torch.cuda.mem_get_info()[0]


def is_ours_or_orphan(pid):
    """Whether a living process descends from this one, or lost its parent: other judges of the host have processes on its GPUs too."""
    parents = []
    while pid > 1:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
        parents.append(pid)
    return os.getpid() in parents or parents == [1]


@pytest.mark.parametrize("seed", ["triton.py", "cuda.cu"])
def test_a_seed_builds_and_runs_with_every_layer(judge, seed):
    evaluation = judge.evaluate("rms_norm", SEEDS[seed])
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.feedback
    assert tuple(evaluation.containment) == LAYERS
    assert evaluation.missing_containment == []
    assert all(timing.mode == "graph" for timing in evaluation.timings), [timing.mode for timing in evaluation.timings]


def test_what_a_triton_submission_finds_inside(judge):
    assert "NoNewPrivs" in INSIDE
    evaluation = judge.evaluate("rms_norm", INSIDE)
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.feedback


@pytest.mark.parametrize(
    ("source", "outcomes", "reason"),
    [
        (HOG, {Outcome.CRASHED}, "of the device's memory"),
        (FOREVER, {Outcome.TIMED_OUT}, "no answer within"),
        (ILLEGAL, {Outcome.CRASHED}, ""),
        (ASSERT, {Outcome.CRASHED}, ""),
        (ORPHAN, {Outcome.CRASHED}, "one is left"),
    ],
    ids=["memory_hog", "forever", "illegal_access", "device_assert", "orphan"],
)
def test_what_it_does_to_the_device_ends_with_it(judge, source, outcomes, reason):
    before, known = free_memory(), set(device_memory_by_process())
    evaluation = judge.evaluate("rms_norm", source)
    assert evaluation.outcome in outcomes, evaluation.feedback
    assert reason in evaluation.reason
    deadline = time.monotonic() + 10
    while free_memory() < before - (1 << 30) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert free_memory() >= before - (1 << 30)
    strangers = {pid for pid in device_memory_by_process() if pid not in known and pid != os.getpid() and is_ours_or_orphan(pid)}
    assert not strangers
    after = judge.evaluate("rms_norm", SEEDS["triton.py"])
    assert after.outcome is Outcome.ACCEPTED, after.feedback


def test_the_management_library_tells_who_holds_memory(judge):
    held = torch.ones(1 << 28, device="cuda")
    assert device_memory_total() > 1 << 30
    assert device_memory_by_process().get(os.getpid(), 0) >= held.nbytes
