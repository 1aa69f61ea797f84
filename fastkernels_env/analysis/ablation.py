"""Several reward presets over the same records: what each pays for, and where they disagree."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import msgspec

from ..reward import Grade, Preset
from ..types import Evaluation, Outcome
from .groups import Group, GroupSummary, gather, judge_group, summarize
from .samples import UNSOUND, Sample, sample
from .statistics import Moments, kendall, moments, spearman

_NOTHING = 1e-9
"""A difference of rewards that rounding may leave."""


class GradeReward(msgspec.Struct, frozen=True, kw_only=True):
    """What a preset pays for a grade."""

    preset: str
    grade: Grade
    rewards: Moments


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a preset pays for what production would refuse. Counts of records of one outcome."""

    preset: str
    outcome: Outcome
    count: int
    at_least_parity: int
    """Paid no less than the same reply would have been as a right kernel that is as fast as the best baseline."""
    above_parity: int
    """Paid more than that."""
    above_loud: int
    """Paid more than the same reply would have been had it failed the loose test."""


class Correlation(msgspec.Struct, frozen=True, kw_only=True):
    """How far two presets rank the records alike, -1 to 1; None where one of them pays the same for all."""

    first: str
    second: str
    count: int
    spearman: float | None
    kendall: float | None
    """tau-b"""


class CurvePoint(msgspec.Struct, frozen=True, kw_only=True):
    """The records of one policy step of one run, under one preset."""

    run: str
    policy_step: int
    preset: str
    count: int
    mean: float
    accepted: float
    """Share of accepted records."""
    unsound: float
    """Share of silent errors, stack conflicts and cheats."""


class Ablation(msgspec.Struct, frozen=True, kw_only=True):
    """What an ablation found. The first preset is the reference."""

    presets: tuple[str, ...]
    summaries: dict[str, str]
    """What each preset says about itself."""
    samples: tuple[Sample, ...]
    rewards: dict[str, Moments]
    """By preset, over all records but faults."""
    grades: tuple[GradeReward, ...]
    verdicts: tuple[Verdict, ...]
    correlations: tuple[Correlation, ...]
    groups: tuple[Group, ...]
    group_summaries: tuple[GroupSummary, ...]
    curves: tuple[CurvePoint, ...]
    """Empty where no record names a run."""

    @property
    def faults(self) -> int:
        """Records that have no reward under any preset and count nowhere."""
        return sum(sample.grade is None for sample in self.samples)


def ablate(records: Iterable[Evaluation], presets: Sequence[Preset]) -> Ablation:
    """Score records under several presets and compare what they pay.

    Args:
        records: Read once, and not kept.
        presets: The first is the reference that best replies are compared with.

    Raises:
        ScoringError: A term of a preset failed.
        ValueError: No preset, or two of the same name.
    """
    names = tuple(preset.name for preset in presets)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"expected one preset or more, each of another name, got {', '.join(names) or 'none'}")
    samples = tuple(sample(record, presets) for record in records)
    scored = [one for one in samples if one.grade is not None]
    groups = tuple(
        judge_group(key, members, name, names[0]) for key, members in gather(scored).items() for name in names
    )
    return Ablation(
        presets=names, summaries={preset.name: preset.summary for preset in presets}, samples=samples,
        rewards={name: moments(_totals(scored, name)) for name in names},
        grades=tuple(_grades(scored, names)), verdicts=tuple(_verdicts(scored, names)),
        correlations=tuple(_correlation(scored, *pair) for pair in itertools.combinations(names, 2)), groups=groups,
        group_summaries=tuple(summarize(name, [group for group in groups if group.preset == name]) for name in names),
        curves=tuple(_curves(scored, names)),
    )


def _totals(samples: Iterable[Sample], preset: str) -> list[float]:
    return [sample.prices[preset].total for sample in samples]


def _grades(samples: Sequence[Sample], presets: Sequence[str]) -> Iterable[GradeReward]:
    for preset in presets:
        for grade in Grade:
            found = moments(_totals((sample for sample in samples if sample.grade is grade), preset))
            if found.count:
                yield GradeReward(preset=preset, grade=grade, rewards=found)


def _verdicts(samples: Sequence[Sample], presets: Sequence[str]) -> Iterable[Verdict]:
    for preset in presets:
        for outcome in UNSOUND:
            prices = [sample.prices[preset] for sample in samples if sample.outcome is outcome]
            parity = [price.total - price.parity for price in prices if price.parity is not None]
            loud = [price.total - price.loud for price in prices if price.loud is not None]
            yield Verdict(
                preset=preset, outcome=outcome, count=len(prices), at_least_parity=sum(more >= -_NOTHING for more in parity),
                above_parity=sum(more > _NOTHING for more in parity), above_loud=sum(more > _NOTHING for more in loud),
            )


def _correlation(samples: Sequence[Sample], first: str, second: str) -> Correlation:
    sides = _totals(samples, first), _totals(samples, second)
    return Correlation(first=first, second=second, count=len(samples), spearman=spearman(*sides), kendall=kendall(*sides))


def _curves(samples: Sequence[Sample], presets: Sequence[str]) -> Iterable[CurvePoint]:
    steps: dict[tuple[str, int], list[Sample]] = {}
    for one in samples:
        if one.context.run:
            steps.setdefault((one.context.run, one.context.policy_step), []).append(one)
    for preset in presets:
        for (run, step), members in sorted(steps.items()):
            mean = moments(_totals(members, preset)).mean
            assert mean is not None
            yield CurvePoint(
                run=run, policy_step=step, preset=preset, count=len(members), mean=mean,
                accepted=sum(member.outcome is Outcome.ACCEPTED for member in members) / len(members),
                unsound=sum(member.outcome in UNSOUND for member in members) / len(members),
            )
