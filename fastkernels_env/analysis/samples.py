"""Samples: what an ablation keeps of a record, namely its ids, its grade and what each preset pays for it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ..reward import Grade, Preset, grade_of
from ..types import Context, Evaluation, Outcome, Reward, Speedup
from .variants import as_honest_parity, as_loud_failure, at_interval_end

UNSOUND = (Outcome.SILENT_ERROR, Outcome.TAMPERED, Outcome.STACK_CONFLICT)
"""What a loose test may take for a right kernel, and production may not."""


class ScoringError(Exception):
    """A preset that cannot score a record. The message names both."""


class Price(msgspec.Struct, frozen=True):
    """What a preset pays for a record, and what it would pay for records that differ in one thing."""

    total: float
    low: float
    """With the kernel as slow as its interval allows; `total` where the record has no interval."""
    high: float
    """With the kernel as fast as its interval allows."""
    parity: float | None = None
    """For a right kernel that is as fast as the best baseline; only for `UNSOUND` outcomes, as is `loud`."""
    loud: float | None = None
    """For a reply that fails the loose test."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """A record without its text, checks and timings."""

    id: str
    task: str
    outcome: Outcome
    grade: Grade | None
    """None for a fault."""
    speedup: Speedup | None
    prompt_hash: str
    context: Context
    prices: dict[str, Price]
    """By preset; empty for a fault."""


def score(preset: Preset, evaluation: Evaluation) -> Reward:
    """A preset's reward for a record.

    Raises:
        ScoringError: One of its terms failed.
    """
    try:
        return preset.score(evaluation)
    except Exception as error:
        raise ScoringError(
            f"the reward preset {preset.name!r} cannot score the evaluation {evaluation.id!r}: {type(error).__name__}: {error}"
        ) from error


def sample(evaluation: Evaluation, presets: Sequence[Preset]) -> Sample:
    """A record as a sample. Raises as `score`."""
    grade = grade_of(evaluation)
    return Sample(
        id=evaluation.id, task=evaluation.task, outcome=evaluation.outcome, grade=grade, speedup=evaluation.speedup,
        prompt_hash=evaluation.prompt_hash, context=evaluation.context, prices={} if grade is None else _prices(evaluation, presets),
    )


def _prices(evaluation: Evaluation, presets: Sequence[Preset]) -> dict[str, Price]:
    slow, fast = at_interval_end(evaluation, "low"), at_interval_end(evaluation, "high")
    others = [as_honest_parity(evaluation), as_loud_failure(evaluation)] if evaluation.outcome in UNSOUND else []
    prices = {}
    for preset in presets:
        total = _total(preset, evaluation)
        ends = [total, *(_total(preset, variant) for variant in (slow, fast) if variant is not None)]
        prices[preset.name] = Price(total, min(ends), max(ends), *(_total(preset, other) for other in others))
    return prices


def _total(preset: Preset, evaluation: Evaluation) -> float:
    total = score(preset, evaluation).total
    if total is None:
        raise ScoringError(f"the reward preset {preset.name!r} gives no reward for the evaluation {evaluation.id!r}, which is no fault")
    return total
