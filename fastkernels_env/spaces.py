"""The space of source texts. Gymnasium's `Text` samples characters of a small set; source code is any text."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from gymnasium.spaces import Text

from .submission import LANGUAGES, MAX_CHARS, TIMED_LANGUAGES
from .task import SEED_LANGUAGE, Task


class _Characters:
    """Every character, as set and sequence: what `Text` and its flattening ask of a character set, without building it."""

    def __len__(self) -> int:
        return sys.maxunicode + 1

    def __contains__(self, character: object) -> bool:
        return isinstance(character, str) and len(character) == 1

    def __getitem__(self, index: int) -> str:
        return chr(index)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Characters)

    def __hash__(self) -> int:
        return hash(_Characters)


class SourceText(Text):
    """Any text within length limits.

    `contains` checks type and length only. `sample` draws one of the given samples, so that random agents and checkers submit real
    code. Two such spaces are equal if their limits are. Flattening gives code points (int32), padded to `max_length`.

    `AsyncVectorEnv` with shared memory never updates text observations, of this space or of `Text`: pass it
    ``shared_memory=False``, or use ``gymnasium.make_vec`` with its defaults.

    Args:
        max_length: Most characters, inclusive.
        min_length: Fewest characters, inclusive.
        samples: Texts that `sample` draws from, each inside the limits. Without any, `sample` gives `min_length` blanks.
        seed: Seeds `sample`.

    Raises:
        ValueError: The limits are no range, or a sample is outside them.

    Example:
        >>> SourceText(10, samples=["int x;"]).sample()
        'int x;'
    """

    def __init__(
        self,
        max_length: int = MAX_CHARS,
        *,
        min_length: int = 0,
        samples: Sequence[str] = (),
        seed: int | np.random.Generator | None = None,
    ) -> None:
        super().__init__(max_length, min_length=min_length, charset=" ", seed=seed)
        for sample in samples:
            if sample not in self:
                raise ValueError(f"expected samples of {min_length} to {max_length} characters, got one of {len(sample)}")
        self.samples = tuple(samples)

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """One of the samples, all equally likely.

        Raises:
            ValueError: A mask or a probability is given; both belong to character sets, which this space has none of.
        """
        if mask is not None or probability is not None:
            raise ValueError("SourceText draws whole texts: it takes no mask and no probability")
        return self.samples[self.np_random.integers(len(self.samples))] if self.samples else " " * self.min_length

    def contains(self, x: Any) -> bool:
        """Whether `x` is a string within the length limits."""
        return isinstance(x, str) and self.min_length <= len(x) <= self.max_length

    def __repr__(self) -> str:
        return f"SourceText({self.max_length}, min_length={self.min_length})"

    def __eq__(self, other: object, /) -> bool:
        return isinstance(other, SourceText) and (self.min_length, self.max_length) == (other.min_length, other.max_length)

    @property
    def character_set(self) -> frozenset[str]:
        """Every character."""
        return cast(frozenset[str], _Characters())

    @property
    def character_list(self) -> tuple[str, ...]:
        """Every character, by code point."""
        return cast(tuple[str, ...], _Characters())

    def character_index(self, char: str) -> np.int32:
        """The code point of a character."""
        return np.int32(ord(char))


def seed_replies(task: Task, device: str) -> list[str]:
    """A reply with each of the task's seed solutions that the device can time, or where there is none, can judge."""
    seeds = [(SEED_LANGUAGE[Path(name).suffix], code) for name, code in task.seeds().items()]
    for languages in (TIMED_LANGUAGES[device], LANGUAGES[device]):
        if replies := [f"```{language.value}\n{code.rstrip()}\n```\n" for language, code in seeds if language in languages]:
            return replies
    return []
