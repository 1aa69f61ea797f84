"""The judge's one-pass kernels say what several operations of torch say. Here they run in Triton's interpreter, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastkernels_env._passes import Lines, lines_of, words


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("what", ["fills", "differences", "sums"])
def test_one_pass_says_what_several_say(what, seed):
    done = subprocess.run(
        [sys.executable, "-P", Path(__file__).with_name("one_pass.py"), "cpu", what, str(seed)], env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


def test_lines_are_runs_at_equal_distances():
    memory = torch.zeros(3, 4, 6, 8)
    assert lines_of(memory) == Lines(192, 192)
    assert lines_of(memory[..., :5]) == Lines(5, 8)
    assert lines_of(memory[:, :, 1:3]) == Lines(16, 48)
    assert lines_of(memory[:, :2, 1:3, :5]) is None
    assert lines_of(memory[:, :, :1, :1]) == Lines(1, 48)
    assert lines_of(memory[:, :1, :1, :1]) == Lines(1, 1)
    assert lines_of(memory.transpose(1, 2)) is None


def test_words_are_the_same_memory_or_nothing():
    memory = torch.zeros(3, 4, 10, dtype=torch.bfloat16)
    view = memory[:, :, :]
    wide = words(view)
    assert wide is not None
    wide.fill_(0x3F803F803F803F80)
    assert bool((memory == 1).all())
    assert words(memory[..., :4]) is None
    assert words(torch.zeros(2, 6, dtype=torch.bfloat16)) is None
    assert words(torch.zeros(2, 0)) is None
    shifted = torch.zeros(42, dtype=torch.bfloat16)[2:].view(5, 8)
    assert words(shifted) is None
