"""Kernels that are wrong, hang, fault or lie on the GPU: each gets its outcome, and the next honest one is accepted."""

from __future__ import annotations

import pytest
import torch

from fastkernels_env.registry import load_task
from fastkernels_env.types import Outcome

HONEST = load_task("rms_norm").seeds()["triton.py"]

HEAD = """
import torch
import triton
import triton.language as tl
"""

FOREVER = HEAD + """
@triton.jit
def _spin(flag):
    while tl.load(flag, volatile=True) != 12345:
        pass


def rms_norm(out, input, weight, epsilon):
    flag = torch.zeros(1, dtype=torch.int32, device=out.device)
    _spin[(1,)](flag)
"""

ILLEGAL = HEAD + """
@triton.jit
def _stray(out):
    tl.store(out + (1 << 44) + tl.program_id(0), 1.0)


def rms_norm(out, input, weight, epsilon):
    _stray[(64,)](out)
"""

NOTHING = HEAD + """
def rms_norm(out, input, weight, epsilon):
    pass
"""

ENTRY = "def rms_norm(out, input, weight, epsilon):\n    rows, width = input.shape\n"

STALE = HONEST.replace(
    ENTRY,
    "_seen = {}\n\n\n" + ENTRY.replace(
        "    rows", "    key = tuple(input.shape)\n    if key in _seen:\n        out.copy_(_seen[key])\n        return\n    rows"
    ),
) + "        _seen[key] = out.clone()\n"

DROPPED_TAIL = HONEST.replace("_rms_norm[(rows,)]", "_rms_norm[(rows // 16 * 16,)]").replace("if rows:", "if rows >= 16:")

OUT_OF_BOUNDS = HONEST.replace("_rms_norm[(rows,)]", "_rms_norm[(rows + 1,)]")

HOST_SYNC = HONEST.replace("    rows, width = input.shape\n", "    rows, width = input.shape\n    float(weight.float().sum())\n")


@pytest.mark.parametrize(
    ("source", "outcomes"),
    [
        (NOTHING, {Outcome.WRONG}),
        (DROPPED_TAIL, {Outcome.SILENT_ERROR}),
        (STALE, {Outcome.TAMPERED}),
        (OUT_OF_BOUNDS, {Outcome.SILENT_ERROR, Outcome.CRASHED}),
        (ILLEGAL, {Outcome.CRASHED}),
        (FOREVER, {Outcome.TIMED_OUT}),
    ],
    ids=["nothing", "dropped_tail", "stale", "out_of_bounds", "illegal", "forever"],
)
def test_hostile_kernel_is_caught_and_the_judge_survives(judge, source, outcomes):
    before = torch.cuda.mem_get_info()[0] if torch.cuda.is_initialized() else None
    evaluation = judge.evaluate("rms_norm", source, effort="quick")
    assert evaluation.outcome in outcomes, evaluation.feedback
    after = judge.evaluate("rms_norm", HONEST, effort="quick")
    assert after.outcome is Outcome.ACCEPTED, after.feedback
    if before is not None:
        torch.cuda.empty_cache()
        assert torch.cuda.mem_get_info()[0] > before - (2 << 30)


def test_a_host_sync_is_timed_eagerly_and_says_so(judge):
    evaluation = judge.evaluate("rms_norm", HOST_SYNC, effort="quick")
    assert evaluation.timings[0].mode == "eager: the check cuda_graph failed"
    assert evaluation.timings[0].mode in evaluation.feedback


def test_calling_the_library_earns_parity_and_no_own_kernel_share(judge):
    source = (load_task("rms_norm").folder / "baselines" / "eager.py").read_text()
    evaluation = judge.evaluate("rms_norm", source)
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.feedback
    assert evaluation.own_kernel_share == 0.0
    assert evaluation.speedup is not None
    assert evaluation.speedup.low <= 1.0
