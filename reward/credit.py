"""Credit: how the scores of an episode's turns become the rewards of its turns.

A fault has no score. It is left out as if that turn had not been (the environment lets it be repeated), and its reward is None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from ..types import Evaluation, Outcome, Reward


class Turn(NamedTuple):
    """A turn that was judged: its score, and whether it was an attempt to cheat."""

    score: float
    tampered: bool = False


class Scorer(Protocol):
    """What turns a record into a reward; presets do."""

    def score(self, evaluation: Evaluation) -> Reward:
        """The reward of a record."""


def raw(turns: Sequence[Turn], gamma: float = 1.0) -> list[float]:
    """Every turn earns its own score."""
    return [turn.score for turn in turns]


def improvement(turns: Sequence[Turn], gamma: float = 1.0) -> list[float]:
    """A turn earns by how much it improves on the best before it, never less than 0; the first one earns its score.

    Tampering is always paid in full and never counts as the best, so that it cannot be won back. This is what `KernelEnv` pays unless
    told otherwise. Without tampering the rewards of an episode sum to its best score.
    """
    rewards: list[float] = []
    best: float | None = None
    for turn in turns:
        rewards.append(turn.score if best is None or turn.tampered else max(turn.score - best, 0.0))
        best = _best(best, turn)
    return rewards


def discounted(turns: Sequence[Turn], gamma: float) -> list[float]:
    """A turn earns its score and, discounted, the scores of the turns that it led to: ``sum of gamma ** (k - t) * score_k, k >= t``.

    Source: Kevin-32B, https://cognition.ai/blog/kevin-32b and arXiv 2507.11948, with gamma 0.4.
    """
    rewards: list[float] = []
    later = 0.0
    for turn in reversed(turns):
        later = turn.score + gamma * later
        rewards.append(later)
    return rewards[::-1]


def potential(turns: Sequence[Turn], gamma: float) -> list[float]:
    """A turn earns its score and ``gamma * phi(after) - phi(before)``, with phi the best score so far.

    phi is 0 before the first turn and after the last, so the shaping of an episode has a discounted sum of 0 and leaves the optimal
    policies as they are. Tampering never counts as the best. Source: Ng, Harada and Russell, "Policy invariance under reward
    transformations", ICML 1999.
    """
    rewards: list[float] = []
    best: float | None = None
    for index, turn in enumerate(turns):
        before, best = best or 0.0, _best(best, turn)
        after = 0.0 if index == len(turns) - 1 else best or 0.0
        rewards.append(turn.score + gamma * after - before)
    return rewards


def _best(best: float | None, turn: Turn) -> float | None:
    if turn.tampered:
        return best
    return turn.score if best is None else max(best, turn.score)


KINDS: Mapping[str, Callable[[Sequence[Turn], float], list[float]]] = {
    "raw": raw, "improvement": improvement, "discounted": discounted, "potential": potential,
}
"""Every kind of credit that a preset may name."""
_WITHOUT_GAMMA = ("raw", "improvement")


class Credit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The table ``[credit]`` of a preset.

    Raises:
        ValueError: An unknown kind, or a discount that is out of range or means nothing; the message begins with the key.
    """

    kind: str = "improvement"
    """One of `KINDS`."""
    gamma: float = 1.0
    """Discount per turn, 0 to 1; for ``discounted`` and ``potential``."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind: unknown kind {self.kind!r}; known are: {', '.join(KINDS)}")
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma: expected a discount between 0 and 1, got {self.gamma!r}")
        if self.gamma != 1 and self.kind in _WITHOUT_GAMMA:
            raise ValueError(f"gamma: {self.kind!r} discounts nothing; drop gamma or choose another kind")


def turn_rewards(credit: Credit, turns: Sequence[Evaluation], preset: Scorer) -> list[float | None]:
    """Rewards of an episode's turns.

    Args:
        credit: How scores become rewards, for instance ``preset.credit``.
        turns: The records of one episode, in order.
        preset: Scores each record.

    Returns:
        One reward per record; None for a fault.
    """
    scores = [preset.score(evaluation).total for evaluation in turns]
    judged = [
        Turn(score, evaluation.outcome is Outcome.TAMPERED) for score, evaluation in zip(scores, turns, strict=True) if score is not None
    ]
    rewards = iter(KINDS[credit.kind](judged, credit.gamma))
    return [None if score is None else next(rewards) for score in scores]
