"""What qualification writes: one line a mutant."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from pathlib import Path

import msgspec


class Status(enum.StrEnum):
    """What became of a mutant."""

    KILLED = "killed"
    """Rejected whenever it was judged."""
    WEAK = "weak"
    """Accepted at first, rejected with other inputs: found by luck."""
    SURVIVED = "survived"
    """Never rejected."""
    STILLBORN = "stillborn"
    """Does not build: no mutant."""
    EQUIVALENT = "equivalent"
    """Right, as the task's ``equivalent.toml`` says or the compiler shows."""
    DISPROVED = "disproved"
    """Said to be equivalent, and rejected."""
    NOT_RUN = "not_run"
    """Needs a GPU."""
    ERROR = "error"
    """A fault of ours, twice."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One mutant, judged."""

    task: str
    id: str
    kind: str
    """``hand`` (from mutants.toml) or ``auto``."""
    seed: str
    operator: str
    line: int
    before: str
    after: str
    """The changed line, before and after."""
    status: Status
    outcome: str = ""
    reason: str = ""
    check: str = ""
    """The check that decided."""
    kills: int = 0
    tries: int = 0
    key: str = ""
    """Hash of what was judged: the mutant's source and the task's definition."""
    device: str = ""
    seconds: float = 0.0
    created: str = ""


def read_results(path: Path) -> list[Result]:
    """Results of an earlier call; an unfinished last line is ignored.

    Raises:
        ValueError: A line is no result; the message names file and line.
    """
    if not path.exists():
        return []
    results = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            results.append(msgspec.json.decode(line, type=Result))
        except msgspec.DecodeError as error:
            raise ValueError(f"{path} line {number} is no result of a qualification ({error}); name another file") from None
    return results


def append_result(path: Path, result: Result) -> None:
    """Add one line."""
    with path.open("ab") as file:
        file.write(msgspec.json.encode(result) + b"\n")


def latest(results: Iterable[Result]) -> list[Result]:
    """The last result of every mutant, in order."""
    return list({(result.task, result.device, result.id): result for result in results}.values())
