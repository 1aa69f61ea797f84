"""A preset: which terms make up a reward, with which weight in which grade."""

from __future__ import annotations

import math

import msgspec

from ..types import Evaluation, Reward
from .credit import Credit
from .grade import Grade, grade_of
from .registry import Range, Term


class PresetError(ValueError):
    """A preset that cannot be used. The message names the file, the key, what was expected and what came."""


class TermError(Exception):
    """A term that returned something that is no number. The message names the preset's file, the key, the term and the evaluation."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One named part of a reward: ``weight of the grade * clip(term)``; 0 in a grade that its gate leaves out."""

    name: str
    term: Term
    weights: tuple[tuple[Grade, float], ...]
    """Weight by grade, in reward units per unit of the term. Grades that are missing are gated out."""
    clip: Range

    def weight(self, grade: Grade) -> float:
        """The weight in that grade, 0 if it is gated out."""
        return dict(self.weights).get(grade, 0.0)

    def values(self, grade: Grade) -> Range:
        """The lowest and highest value of the term in that grade, after clipping."""
        low, high = self.term.range_in(grade)
        return min(max(low, self.clip[0]), self.clip[1]), max(min(high, self.clip[1]), self.clip[0])

    def reach(self, grade: Grade) -> Range:
        """The lowest and highest value of the part in that grade."""
        weight = self.weight(grade)
        if weight == 0:
            return 0.0, 0.0
        ends = [weight * value for value in self.values(grade)]
        return min(ends), max(ends)


class Preset(msgspec.Struct, frozen=True, kw_only=True):
    """A reward as a pure function of an evaluation. Get one from `load_preset`; frozen, hashable, picklable."""

    name: str
    summary: str
    bounds: Range
    """No total lies outside; proved when the preset is loaded, so totals are never cut."""
    parts: tuple[Part, ...]
    order: str = ""
    """Name of the order that the bands of the grades keep, proved when the preset is loaded; empty: none."""
    credit: Credit = Credit()
    """How the scores of an episode's turns become their rewards, for `turn_rewards`."""
    file: str = ""
    """Where it was loaded from."""

    @property
    def part_names(self) -> tuple[str, ...]:
        """Names of the parts, the same for every evaluation but a fault."""
        return tuple(part.name for part in self.parts)

    def band(self, grade: Grade) -> Range:
        """The lowest and highest total of that grade."""
        reaches = [part.reach(grade) for part in self.parts]
        return _sum([low for low, _ in reaches]), _sum([high for _, high in reaches])

    def score(self, evaluation: Evaluation) -> Reward:
        """The reward of an evaluation.

        Args:
            evaluation: Any record, fresh or read from a log.

        Returns:
            The total with all parts, which sum to it (``math.fsum``, so that rounding cannot leave a band). On a fault the total
            is None and there are no parts.

        Raises:
            TermError: A term returned NaN or something that is no number.
        """
        grade = grade_of(evaluation)
        if grade is None:
            return Reward(preset=self.name, total=None)
        parts = {part.name: self._value(part, grade, evaluation) for part in self.parts}
        return Reward(preset=self.name, total=math.fsum(parts.values()), parts=parts)

    def _value(self, part: Part, grade: Grade, evaluation: Evaluation) -> float:
        weight = part.weight(grade)
        if weight == 0:
            return 0.0
        returned = part.term(evaluation)
        try:
            value = float(returned)
        except (TypeError, ValueError, OverflowError):
            value = math.nan
        if math.isnan(value):
            raise TermError(
                f"{self.file or self.name}: parts.{part.name}: term {part.term.name!r} returned {returned!r} for evaluation "
                f"{evaluation.id!r}; a term must return a number"
            )
        low, high = part.values(grade)
        return weight * min(max(value, low), high) + 0.0


def _sum(values: list[float]) -> float:
    """Their sum; NaN, which lies within no bounds, if they have none."""
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):
        return math.nan
