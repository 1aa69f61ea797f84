"""What a record would say if one thing about the submission were different: measured anew, right instead of wrong, loud instead of silent.

They give a reward something to be compared with. Whatever they do not name stays as it was.
"""

from __future__ import annotations

import math

from msgspec.structs import replace

from ..checks import CHECKS
from ..types import Check, Evaluation, Outcome, Speedup, Stage, Status, Timing

_BUILT = tuple(Check(name=spec.name, stage=spec.stage, status=Status.PASSED) for spec in CHECKS if spec.stage is Stage.BUILD)
_SMOKE = Check(name="smoke", stage=Stage.SMOKE, status=Status.PASSED)


def at_interval_end(evaluation: Evaluation, end: str) -> Evaluation | None:
    """The record of the same kernel, had it been as slow or as fast as its interval allows.

    The candidate's times are divided, and the speedup with its interval multiplied, by ``end / estimate``.

    Args:
        evaluation: A record.
        end: ``low`` or ``high``.

    Returns:
        The record; None where there is no speedup, or one without a usable interval.
    """
    speedup = evaluation.speedup
    if speedup is None or not 0 < speedup.low <= speedup.estimate <= speedup.high < math.inf:
        return None
    factor = getattr(speedup, end) / speedup.estimate
    moved = Speedup(
        estimate=speedup.estimate * factor, low=speedup.low * factor, high=speedup.high * factor, worst=speedup.worst * factor,
        worst_workload=speedup.worst_workload,
    )
    return replace(evaluation, speedup=moved, timings=[_faster(timing, factor) for timing in evaluation.timings])


def as_honest_parity(evaluation: Evaluation) -> Evaluation:
    """The record of a right kernel that is exactly as fast as the best baseline was.

    What was not timed stays without a speed. A share of own kernels that is 0 counts as not measured.
    """
    speedup = evaluation.speedup and Speedup(
        estimate=1.0, low=1.0, high=1.0, worst=1.0, worst_workload=evaluation.speedup.worst_workload
    )
    first = [*_BUILT, _SMOKE]
    names = {check.name for check in first}
    others = [
        replace(check, status=Status.PASSED, detail="") if check.status is Status.FAILED else check
        for check in evaluation.checks if check.name not in names
    ]
    return replace(
        evaluation, outcome=Outcome.ACCEPTED, reason="", decided_by="", checks=[*first, *others], workloads_right=1.0, speedup=speedup,
        timings=[_at_parity(timing) for timing in evaluation.timings], own_kernel_share=evaluation.own_kernel_share or None,
    )


def as_loud_failure(evaluation: Evaluation) -> Evaluation:
    """The record of a reply that fails the loose test (smoke) instead, so that nothing after it was run or timed."""
    return replace(
        evaluation, outcome=Outcome.WRONG, reason="", decided_by="smoke", checks=[*_BUILT, replace(_SMOKE, status=Status.FAILED)],
        workloads_right=0.0, speedup=None, timings=[], own_kernel_share=None,
    )


def _faster(timing: Timing, factor: float) -> Timing:
    return replace(
        timing, candidate_us=timing.candidate_us / factor,
        candidate_samples_us=[sample / factor for sample in timing.candidate_samples_us],
        eager_us=None if timing.eager_us is None else timing.eager_us / factor,
        speed_of_light=None if timing.speed_of_light is None else timing.speed_of_light * factor,
    )


def _at_parity(timing: Timing) -> Timing:
    if timing.best_baseline not in timing.baselines:
        return timing
    time = timing.baselines[timing.best_baseline]
    share = timing.speed_of_light
    return replace(
        timing, candidate_us=time, candidate_samples_us=timing.baseline_samples_us.get(timing.best_baseline, []),
        eager_us=timing.baseline_eager_us,
        speed_of_light=None if share is None or not time > 0 else share * timing.candidate_us / time,
    )
