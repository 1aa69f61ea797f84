"""Grades: the outcomes as a reward sees them, with `accepted` split by the measured speed."""

from __future__ import annotations

import enum

from ..types import Evaluation, Outcome, Speedup


class Grade(enum.StrEnum):
    """What a reward tells apart: every outcome but `fault`, and three kinds of `accepted`."""

    TAMPERED = "tampered"
    SILENT_ERROR = "silent_error"
    REJECTED = "rejected"
    BUILD_FAILED = "build_failed"
    CRASHED = "crashed"
    TIMED_OUT = "timed_out"
    WRONG = "wrong"
    STACK_CONFLICT = "stack_conflict"
    UNMEASURED = "unmeasured"
    SLOWER = "slower"
    """Accepted, and the whole interval of the speedup lies below 1."""
    PARITY = "parity"
    """Accepted, and the interval contains 1; or accepted without a measured speed (an effort that does not profile)."""
    FASTER = "faster"
    """Accepted, and the whole interval of the speedup lies above 1."""


def grade_of(evaluation: Evaluation) -> Grade | None:
    """The grade of an evaluation, or None on a fault, which has no reward."""
    if evaluation.outcome is Outcome.FAULT:
        return None
    if evaluation.outcome is not Outcome.ACCEPTED:
        return Grade(evaluation.outcome.value)
    side = speed_side(evaluation.speedup)
    return Grade.FASTER if side > 0 else Grade.SLOWER if side < 0 else Grade.PARITY


def speed_side(speedup: Speedup | None) -> int:
    """Where the speedup's interval lies: 1 above 1.0, -1 below, 0 if it contains 1.0.

    No speedup, NaN and an interval whose ends are swapped claim nothing: 0.
    """
    if speedup is None or not speedup.low <= speedup.high:
        return 0
    return 1 if speedup.low > 1 else -1 if speedup.high < 1 else 0
