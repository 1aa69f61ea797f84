"""Records scored again: the same measurements under another reward."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec
from msgspec.structs import replace

from ..reward import Preset
from ..types import Evaluation, Outcome, Reward
from .samples import score
from .statistics import Moments, moments


class OutcomeReward(msgspec.Struct, frozen=True, kw_only=True):
    """The rewards of all records of an outcome. A fault has none."""

    outcome: Outcome
    count: int
    rewards: Moments


class Rescored(msgspec.Struct, frozen=True, kw_only=True):
    """The rewards of a log under a preset."""

    preset: str
    count: int
    faults: int
    rewards: Moments
    """Over all records but faults."""
    outcomes: tuple[OutcomeReward, ...]
    """Of the outcomes that occur, in the order of `Outcome`."""


class Tally:
    """Collects rewards, one record at a time."""

    def __init__(self, preset: str) -> None:
        self._preset = preset
        self._totals: dict[Outcome, list[float]] = {}
        self._counts: dict[Outcome, int] = {}

    def add(self, outcome: Outcome, reward: Reward) -> None:
        """Count a record."""
        self._counts[outcome] = self._counts.get(outcome, 0) + 1
        if reward.total is not None:
            self._totals.setdefault(outcome, []).append(reward.total)

    def result(self) -> Rescored:
        """What was collected."""
        outcomes = tuple(
            OutcomeReward(outcome=outcome, count=self._counts[outcome], rewards=moments(self._totals.get(outcome, ())))
            for outcome in Outcome if outcome in self._counts
        )
        return Rescored(
            preset=self._preset, count=sum(self._counts.values()), faults=self._counts.get(Outcome.FAULT, 0),
            rewards=moments(total for totals in self._totals.values() for total in totals), outcomes=outcomes,
        )


def rescore(records: Iterable[Evaluation], preset: Preset) -> Iterator[Evaluation]:
    """Score records under a preset.

    Args:
        records: As `read_log` or `iter_log` gives them.
        preset: As `load_preset` gives it.

    Yields:
        Each record with its reward under ``rewards[preset.name]``; other rewards stay. A fault's has the total None.

    Raises:
        ScoringError: A term of the preset failed.
    """
    for record in records:
        yield replace(record, rewards={**record.rewards, preset.name: score(preset, record)})
