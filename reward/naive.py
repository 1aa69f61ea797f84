"""Naive terms: they see what a common sandbox sees, one unit test with a loose tolerance (the check `smoke`), and times of calls in a row.

Published rewards are made of these. They are blind to verification on purpose: whatever passed smoke is right to them, whatever became
of it (a silent error, a stack conflict, tampering), so that a record says what such a reward would have paid.
"""

from __future__ import annotations

import math
from typing import Annotated

import msgspec

from ..types import Evaluation, Status
from .registry import term

Share = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Names = Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]


@term
def built(evaluation: Evaluation) -> float:
    """1 if the source compiled, else 0."""
    return float(_status(evaluation, "build") is Status.PASSED)


@term
def smoke_ran(evaluation: Evaluation) -> float:
    """1 if the unit test came to an answer, right or wrong; 0 if there was nothing to run, or it crashed or hung."""
    return float(_status(evaluation, "smoke") is not Status.NOT_RUN)


@term
def smoke_passed(evaluation: Evaluation, *, own_kernels: bool = False) -> float:
    """1 if the unit test passed, else 0.

    Args:
        evaluation: The record.
        own_kernels: Ask also that kernels of the submission ran. Only a measured share of exactly 0 is held against it.
    """
    return float(_believed(evaluation, own_kernels))


@term
def own_kernels(evaluation: Evaluation) -> float:
    """Share of device time in the submission's own kernels, 0 to 1; 0 where smoke did not pass or the share was not measured.

    It is measured on CUDA devices with full effort, and reported by the submission's own process.
    """
    share = evaluation.own_kernel_share
    return min(max(share, 0.0), 1.0) if share is not None and _believed(evaluation) else 0.0


@term(high=math.inf)
def speedup_over(evaluation: Evaluation, *, baseline: str, own_kernels: bool = False) -> float:
    """Time of a baseline over the candidate's, 0 or more: ``sum(count * baseline_us) / sum(count * candidate_us)``.

    The sums run over the workloads on which both were timed; 0 if there are none, or smoke did not pass. Times are medians of calls in
    a row. What sealed calls added to the candidate's time is taken off again: a common sandbox has none.

    Args:
        evaluation: The record.
        baseline: Its name, as the task gives it: ``eager`` or ``compile`` for most.
        own_kernels: As for `smoke_passed`.
    """
    return _speedup(evaluation, baseline, own_kernels) or 0.0


@term(low=-1.0, high=math.inf)
def gain_over(evaluation: Evaluation, *, baseline: str) -> float:
    """``speedup_over - 1``: positive if faster, -1 at worst; 0 where `speedup_over` has nothing to compare."""
    speedup = _speedup(evaluation, baseline)
    return 0.0 if speedup is None else speedup - 1.0


@term(low=-math.inf, high=math.inf)
def log_speedup_over(evaluation: Evaluation, *, baseline: str) -> float:
    """Natural logarithm of `speedup_over`; 0 where that has nothing to compare."""
    speedup = _speedup(evaluation, baseline)
    return 0.0 if speedup is None else math.log(speedup)


@term
def faster_than(evaluation: Evaluation, *, baselines: Names, saved: Share = 0.0) -> float:
    """1 if the candidate saves more than a share of the time of every one of these baselines, else 0: ``1 - 1 / speedup > saved``.

    Args:
        evaluation: The record.
        baselines: Their names; one that was not timed is not beaten.
        saved: Share of the baseline's time, 0 to 1.
    """
    speedups = [_speedup(evaluation, baseline) for baseline in baselines]
    return float(all(speedup is not None and 1.0 - 1.0 / speedup > saved for speedup in speedups))


def _status(evaluation: Evaluation, name: str) -> Status:
    check = evaluation.check(name)
    return check.status if check else Status.NOT_RUN


def _believed(evaluation: Evaluation, own_kernels: bool = False) -> bool:
    decoy = own_kernels and evaluation.own_kernel_share == 0
    return _status(evaluation, "smoke") is Status.PASSED and not decoy


def _speedup(evaluation: Evaluation, baseline: str, own_kernels: bool = False) -> float | None:
    """Speedup as a common sandbox would have measured it, finite and above 0; None if there is none."""
    if not _believed(evaluation, own_kernels):
        return None
    both = [timing for timing in evaluation.timings if baseline in timing.baselines]
    theirs = sum(max(timing.count, 1) * timing.baselines[baseline] for timing in both)
    ours = sum(max(timing.count, 1) * (timing.candidate_us - timing.sealed_added_us) for timing in both)
    ratio = theirs / ours if ours > 0 else 0.0
    return ratio if 0 < ratio < math.inf else None
