"""What is judged: a task's hand-written mutants and a sample of the automatic ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..submission import LANGUAGES
from ..task import SEED_LANGUAGE, Mutant
from .equivalent import load_equivalents
from .mutations import Mutation, enumerate_mutations, sample

if TYPE_CHECKING:
    from ..task import Task

INTERPRETED_SHARE = 8
"""The interpreter takes up to a minute for a mutant that it does not reject, so that fewer are judged where it is used."""


class Candidate(NamedTuple):
    """One mutant.

    Attributes:
        id: Of the mutation, or the name of a hand-written mutant.
        kind: ``hand`` or ``auto``.
        seed: File name of the seed.
        operator: Of the mutation; empty if hand-written.
        line: Number of the first changed line.
        before: The changed lines.
        after: The same, changed.
        source: The mutant.
        equivalent: Why it is equivalent, if the task says so.
        not_run: Why this device cannot judge it; empty if it can.
        expect: Outcomes that count as caught, where the author says so.
    """

    id: str
    kind: str
    seed: str
    operator: str
    line: int
    before: str
    after: str
    source: str
    equivalent: str = ""
    not_run: str = ""
    expect: tuple[str, ...] = ()


def candidates(task: Task, device: str, budget: int, seed: int) -> list[Candidate]:
    """Hand-written mutants first, then at most `budget` automatic ones of each seed that the device runs.

    Args:
        task: The task.
        device: ``cpu`` or ``cuda``.
        budget: Automatic mutants of a seed; an eighth of it where Triton is interpreted.
        seed: Seeds the sample.

    Raises:
        TaskError: mutants.toml or equivalent.toml does not fit the seeds.
    """
    found = [_hand_written(task, mutant, device) for mutant in task.mutants()]
    equivalents = load_equivalents(task)
    for name, source in task.seeds().items():
        if not runs_on(name, device):
            continue
        amount = budget // INTERPRETED_SHARE if device == "cpu" and name.endswith(".py") else budget
        for mutation in sample([m for m in enumerate_mutations(name, source) if m.needs in ("", device)], amount, seed):
            listed = equivalents.get(mutation.id)
            found.append(_automatic(mutation, source, listed.reason if listed and device in listed.devices else ""))
    return found


def runs_on(seed: str, device: str) -> bool:
    """Whether a device runs seeds of that file's language."""
    language = SEED_LANGUAGE[Path(seed).suffix]
    return language in LANGUAGES[device] and not (device == "cpu" and language == "cuda")


def _automatic(mutation: Mutation, source: str, equivalent: str) -> Candidate:
    before, after = mutation.describe(source)
    return Candidate(
        mutation.id, "auto", mutation.seed, mutation.operator, mutation.line, before, after, mutation.apply(source), equivalent
    )


def _hand_written(task: Task, mutant: Mutant, device: str) -> Candidate:
    mutated, original = task.mutate(mutant), task.seeds()[mutant.seed]
    line = original.count("\n", 0, original.index(mutant.find)) + 1
    runs = runs_on(mutant.seed, device) and device in mutant.devices
    not_run = "" if runs else f"needs {'a GPU' if device == 'cpu' else 'a CPU'}"
    return Candidate(
        mutant.name, "hand", mutant.seed, "", line, mutant.find, mutant.replace, mutated, not_run=not_run, expect=mutant.expect
    )
