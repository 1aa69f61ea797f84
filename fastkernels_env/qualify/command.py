"""``fastkernels-env qualify``: judge the mutants of tasks, resume, and say what survived."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .._terminal import ACCEPTED, FAULT, OTHER
from ..build import precompile_prelude
from .candidates import candidates, runs_on
from .records import Result, Status, append_result, latest, read_results
from .report import OPEN, to_json, to_markdown
from .runner import Runner

if TYPE_CHECKING:
    from ..evaluator import Evaluator
    from ..task import Task

BUDGET = 40
"""Automatic mutants of a seed, by default."""


def qualify(
    evaluator: Evaluator, tasks: Iterable[Task], *, budget: int = BUDGET, seed: int = 0, out: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[Result]:
    """Judge the mutants of tasks.

    Args:
        evaluator: Of the device to judge on.
        tasks: Tasks to qualify.
        budget: Automatic mutants of each seed.
        seed: Seeds the sample of mutants and all inputs.
        out: JSONL file to which every result is appended; those that it holds and that still fit are not judged again.
        progress: Called with a line of text before each mutant.

    Returns:
        A result for every mutant, in order.

    Raises:
        TaskError: A task's mutants do not fit its seeds, or a seed is itself rejected.
        ValueError: `out` holds something else.
    """
    say = progress or (lambda text: None)
    say("precompiling headers")
    precompile_prelude()
    kept = [result for result in (read_results(out) if out else []) if result.device == evaluator.device]
    earlier = {(result.task, result.id, result.key): result for result in kept if result.status is not Status.ERROR}
    results: list[Result] = []
    for task in tasks:
        results += _qualify(evaluator, task, budget, seed, out, earlier, say)
    return latest(results)


def _qualify(
    evaluator: Evaluator, task: Task, budget: int, seed: int, out: Path | None, earlier: dict[tuple[str, str, str], Result],
    say: Callable[[str], None],
) -> list[Result]:
    name = task.folder.name
    wanted = candidates(task, evaluator.device, budget, seed)
    runner = Runner(evaluator, task, seed)
    found = {c.id: earlier[name, c.id, runner.key(c)] for c in wanted if (name, c.id, runner.key(c)) in earlier}
    todo = [candidate for candidate in wanted if candidate.id not in found]
    if todo:
        say(f"{name}: its seeds")
        runner.check_seeds(sorted({c.seed for c in wanted if runs_on(c.seed, evaluator.device)}))

    def done(result: Result) -> None:
        found[result.id] = result
        if out is not None:
            append_result(out, result)
        what = f"{result.seed} line {result.line}, {result.operator or result.id}"
        say(f"{name}: {len(found)} of {len(wanted)}, {result.status.value}: {what}")

    runner.run(todo, done)
    return [found[candidate.id] for candidate in wanted]


def summary(results: Sequence[Result], as_json: bool) -> str:
    """What is printed at the end."""
    return json.dumps(to_json(results), indent=2) + "\n" if as_json else to_markdown(results)


def exit_status(results: Sequence[Result]) -> int:
    """3 if a fault of ours left a mutant unjudged, 1 if one survived that is not equivalent, else 0."""
    statuses = {result.status for result in results}
    return FAULT if Status.ERROR in statuses else OTHER if statuses & OPEN else ACCEPTED
