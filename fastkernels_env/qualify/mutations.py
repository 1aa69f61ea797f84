"""Mutations of a source: one changed span each, enumerated in order, with ids that survive edits elsewhere in the file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

_T = TypeVar("_T")


class Edit(NamedTuple):
    """What an operator proposes: other text for one span of the source (character offsets)."""

    operator: str
    start: int
    end: int
    after: str


class Mutation(msgspec.Struct, frozen=True, kw_only=True):
    """One edit of one seed."""

    id: str
    """Hash of seed, operator, position and replacement. The position is the text of the line, which of the equal lines it is, and the
    column: it stays the same when other lines change."""
    seed: str
    operator: str
    line: int
    start: int
    end: int
    before: str
    after: str
    needs: str = ""
    """``cuda`` if no host without a GPU can tell the mutant from its seed."""

    def apply(self, source: str) -> str:
        """The mutant's source."""
        return source[: self.start] + self.after + source[self.end :]

    def describe(self, source: str) -> tuple[str, str]:
        """The changed lines, before and after, without indentation."""
        first = source.rfind("\n", 0, self.start) + 1
        last = source.find("\n", self.end)
        last = len(source) if last < 0 else last
        return source[first:last].strip(), (source[first : self.start] + self.after + source[self.end : last]).strip()


NEEDS_CUDA = frozenset({"narrowed index"})
"""Operators whose mutants differ from the seed only at sizes that a CPU's workloads do not have."""


def enumerate_mutations(seed: str, source: str) -> list[Mutation]:
    """All mutations of a seed, by position. No two of them give the same text.

    Args:
        seed: File name; its suffix says the language.
        source: Its text.

    Raises:
        ValueError: No engine for that suffix.
        SyntaxError: A Python source does not parse.
    """
    lines = _Lines(source)
    found: dict[str, Mutation] = {}
    for edit in sorted(_edits(seed, source), key=lambda edit: (edit.start, edit.end, edit.operator, edit.after)):
        before = source[edit.start : edit.end]
        if before.split() == edit.after.split():
            continue
        text = source[: edit.start] + edit.after + source[edit.end :]
        if text not in found:
            found[text] = _mutation(seed, edit, before, lines)
    return sorted(found.values(), key=lambda mutation: (mutation.start, mutation.end, mutation.after))


def sample(mutations: Sequence[Mutation], budget: int, seed: int) -> list[Mutation]:
    """At most `budget` mutations, spread evenly over the operators: one of each in turn. The order in an operator depends on `seed`."""
    groups: dict[str, list[Mutation]] = {}
    for mutation in sorted(mutations, key=lambda m: hashlib.sha256(f"{seed}/{m.id}".encode()).digest()):
        groups.setdefault(mutation.operator, []).append(mutation)
    turns = zip_longest(*(groups[operator] for operator in sorted(groups)))
    chosen = [mutation for turn in turns for mutation in turn if mutation is not None]
    return chosen[:budget]


def _edits(seed: str, source: str) -> Iterator[Edit]:
    suffix = Path(seed).suffix
    if suffix == ".py":
        from .python_operators import OPERATORS as PYTHON
        from .python_tree import Tree

        yield from _each(PYTHON, Tree(source))
    elif suffix in (".cpp", ".cu"):
        from .c_operators import operators
        from .c_tokens import Code

        yield from _each(operators(suffix), Code(source))
    else:
        raise ValueError(f"expected a seed in .py, .cpp or .cu, got {seed!r}")


def _each(operators: Iterable[Callable[[_T], Iterator[Edit]]], code: _T) -> Iterator[Edit]:
    for operator in operators:
        yield from operator(code)


class _Lines:
    """Where lines start, and how often the same text came before."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._seen: dict[int, int] = {}
        counts: dict[str, int] = {}
        start = 0
        for line in source.split("\n"):
            counts[line.strip()] = self._seen[start] = counts.get(line.strip(), -1) + 1
            start += len(line) + 1

    def position(self, offset: int) -> tuple[str, int, int]:
        """Text of the line, which of the equal ones it is, and the column behind the indentation."""
        start = self.source.rfind("\n", 0, offset) + 1
        end = self.source.find("\n", offset)
        line = self.source[start : len(self.source) if end < 0 else end]
        return line.strip(), self._seen[start], offset - start - (len(line) - len(line.lstrip()))

    def number(self, offset: int) -> int:
        return self.source.count("\n", 0, offset) + 1


def _mutation(seed: str, edit: Edit, before: str, lines: _Lines) -> Mutation:
    key = (seed, edit.operator, *lines.position(edit.start), before, edit.after)
    return Mutation(
        id=hashlib.sha256(repr(key).encode()).hexdigest()[:12], seed=seed, operator=edit.operator, line=lines.number(edit.start),
        start=edit.start, end=edit.end, before=before, after=edit.after, needs="cuda" if edit.operator in NEEDS_CUDA else "",
    )
