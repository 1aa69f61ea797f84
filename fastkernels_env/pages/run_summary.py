"""What a report says of a run, gathered from its records one at a time: a log of any length fits into memory."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from ..types import Evaluation, Outcome, Reward, Stage, Status

NOT_REACHED = "not reached"
"""Of a check that was not run because the evaluation ended before it, or that a record lacks, such as that of a fault."""
_ENDED = "the evaluation ended before it"
UNOPENED = "not opened"
"""The device's name in a record of a reply that was refused before a device was needed."""
_REASON_CHARS = 400
_STAGES = list(Stage)


class Scorer(Protocol):
    """What turns a record into a reward; presets do."""

    def score(self, evaluation: Evaluation) -> Reward:
        """The reward of a record."""


class Row(NamedTuple):
    """One evaluation, in short. `score` is None for a fault, `speedup` where nothing was timed."""

    created: str
    run: str
    step: int
    turn: int
    task: str
    outcome: str
    decided_by: str
    reason: str
    score: float | None
    speedup: float | None


class Kernel(NamedTuple):
    """An accepted kernel, and the number of its evaluation, counted from 1."""

    number: int
    evaluation: Evaluation
    reward: Reward

    @property
    def speedup(self) -> float:
        """The estimate of its speedup."""
        speedup = self.evaluation.speedup
        return speedup.estimate if speedup is not None and math.isfinite(speedup.estimate) else 0.0


class TaskRun(NamedTuple):
    """What came of one task on one device."""

    task: str
    device: str
    outcomes: Counter[str]
    first: Kernel | None
    """The first accepted kernel."""
    best: Kernel | None
    """The accepted kernel with the highest speedup."""


class RunSummary:
    """Records in, the numbers of a report out."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self.rows: list[Row] = []
        self._tasks: dict[tuple[str, str, str], TaskRun] = {}
        self.checks: dict[tuple[str, str], Counter[tuple[str, str]]] = {}
        """By stage and name, how often each outcome and status came together."""
        self.seconds: dict[str, float] = {}

    def add(self, evaluation: Evaluation) -> None:
        """Take a record in."""
        reward = self._scorer.score(evaluation)
        context, speedup, outcome = evaluation.context, evaluation.speedup, evaluation.outcome.value
        self.rows.append(Row(
            evaluation.created, context.run, context.policy_step, context.turn, evaluation.task, outcome, evaluation.decided_by,
            evaluation.reason[:_REASON_CHARS], reward.total, speedup.estimate if speedup else None,
        ))
        for stage, value in evaluation.seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + (value if math.isfinite(value) else 0.0)
        for check in evaluation.checks:
            seen = self.checks.setdefault((check.stage.value, check.name), Counter())
            if not (check.status is Status.NOT_RUN and check.detail.startswith(_ENDED)):
                seen[outcome, check.status.value] += 1
        device = evaluation.device
        name = "" if device.name == UNOPENED else device.name
        key = evaluation.task, device.kind, name
        run = self._tasks.setdefault(key, TaskRun(evaluation.task, name or device.kind, Counter(), None, None))
        run.outcomes[outcome] += 1
        if evaluation.outcome is Outcome.ACCEPTED:
            kernel = Kernel(len(self.rows), evaluation, reward)
            best = run.best is None or kernel.speedup > run.best.speedup
            self._tasks[key] = run._replace(first=run.first or kernel, best=kernel if best else run.best)

    @property
    def tasks(self) -> list[TaskRun]:
        """By task and device. What ended before the device was opened counts with the first device of its kind that was."""
        found = {key: run._replace(outcomes=run.outcomes.copy()) for key, run in self._tasks.items() if key[2]}
        for (task, kind, name), run in self._tasks.items():
            home = next((other for (*key, _), other in found.items() if key == [task, kind]), None)
            if not name and home is not None:
                home.outcomes.update(run.outcomes)
            elif not name:
                found[task, kind, name] = run
        return list(found.values())

    @property
    def devices(self) -> list[str]:
        """Names of the devices, and kinds of those that have none."""
        return list(dict.fromkeys(run.device for run in self.tasks))

    @property
    def outcomes(self) -> Counter[str]:
        """How often each outcome came, in the order in which outcomes are listed."""
        found = Counter(row.outcome for row in self.rows)
        return Counter({outcome.value: found[outcome.value] for outcome in Outcome if found[outcome.value]})

    @property
    def runs(self) -> dict[str, list[Row]]:
        """Rows by run, in order of appearance."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.run, []).append(row)
        return found

    def matrix(self) -> list[tuple[str, str, dict[str, Counter[str]]]]:
        """Stage, name and, by outcome, the statuses of every check, in the order of the stages.

        `NOT_REACHED` is a status of its own, as `not_run` is: neither is `passed`.
        """
        outcomes = self.outcomes
        lines = []
        for stage, name in sorted(self.checks, key=lambda key: _STAGES.index(Stage(key[0]))):
            seen = self.checks[stage, name]
            cells = {outcome: Counter({s.value: seen[outcome, s.value] for s in Status}) for outcome in outcomes}
            for outcome, cell in cells.items():
                cell[NOT_REACHED] = max(outcomes[outcome] - cell.total(), 0)
            lines.append((stage, name, cells))
        return lines


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the numbers that are finite; None if there are none."""
    found = finite(values)
    return math.fsum(found) / len(found) if found else None


def finite(values: Iterable[float | None]) -> list[float]:
    """The numbers that are finite."""
    return [value for value in values if value is not None and math.isfinite(value)]
