"""The judge's one-pass kernels on a GPU: they say what several operations of torch say, at every size and in every dtype."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastkernels_env import _passes
from fastkernels_env.judge import compare
from fastkernels_env.rearrange import Rows, gather

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("what", ["fills", "differences", "sums"])
def test_one_pass_says_what_several_say(what):
    for seed in range(4):
        command = [sys.executable, "-P", Path(__file__).parent.with_name("one_pass.py"), "cuda", what, str(seed)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_large_outputs_too(dtype):
    slots, rows, width = 6, 4096, 14336
    stack = torch.randn(slots, rows, width, device="cuda").to(dtype)
    source = torch.randperm(slots * rows, device="cuda").view(slots, rows)
    factor = torch.tensor([-1.0, 2.0], device="cuda")[torch.randint(2, source.shape, device="cuda")]
    due = gather(stack, Rows(source, factor))
    memory = torch.zeros(slots, rows, width + 16, dtype=dtype, device="cuda")
    target = memory[..., :width]
    lines = _passes.lines_of(target)
    assert lines is not None
    _passes.fill(target, stack, source, factor, 0, lines)
    assert torch.equal(target, due)
    assert not memory[..., width:].any()
    assert not _passes.differing(due, stack, source, factor, 0).any()
    due[4, -1, -1] += 1
    assert _passes.differing(due, stack, source, factor, 0).tolist() == [False] * 4 + [True, False]


SIZES = [(4096, 14336, 1), (8192, 4096, 32), (65_536, 128, 1), (1, 1 << 22, 1), (300_000, 1, 1), (77, 1000, 8)]


@pytest.mark.parametrize(("rows", "width", "cells"), SIZES)
def test_errors_of_large_outputs_too(rows, width, cells):
    expected = torch.randn(rows, width, dtype=torch.float64, device="cuda")
    actual = (expected * (1 + 0.01 * torch.randn_like(expected))).bfloat16()
    groups = {"head": torch.arange(cells).repeat(rows)}
    rule = compare._Rule(compare.Gate(1e-2, 1e-2), 0.01, 0.001, 0.008)
    seen = []
    for guarded in (False, True):  # what is guarded goes through torch
        figures, kinds = compare._measure(actual, expected, rule, groups, guarded=guarded)
        seen.append(compare._verdict(rows * width, figures.tolist()[:6], compare.first_of(kinds, figures.tolist()[6:])))
    one, other = seen
    assert one.outside == pytest.approx(other.outside, rel=1e-4)
    assert one.rms == pytest.approx(other.rms, rel=1e-9)
    assert one.worst.name == other.worst.name
    assert one.worst_gates == pytest.approx(other.worst_gates, rel=1e-5)
