"""An evaluation that is being filled in, and the record that it becomes."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from .checks import CheckList
from .clock import now
from .feedback import write_feedback
from .journal import Entry
from .judge.verdict import decided_by
from .sandbox.layers import Report, merge
from .task import Task
from .types import Artifact, BaselineReport, DeviceInfo, Evaluation, Outcome, Stage, Submission
from .versions import versions

if TYPE_CHECKING:
    from .build import Build
    from .judge.trial import Trial


class Draft:
    """An evaluation that is being filled in."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.checks = CheckList(kind)
        self.outcome, self.reason = Outcome.FAULT, ""
        self.submission: Submission | None = None
        self.artifact: Artifact | None = None
        self.build_log = self.output = ""
        self.start = now()
        self.seconds: dict[str, float] = {}
        self.early: Build | None = None
        self.trial: Trial | None = None
        self.device = DeviceInfo(kind=kind, name="not opened")
        self.baselines: list[BaselineReport] = []
        self.lasting = False
        """Whether a fault would only repeat itself."""
        self.faults: list[str] = []
        self.builds: list[Report] = []
        self.workers: list[Report] = []

    def end(self, outcome: Outcome, reason: str) -> None:
        """Decide what became of it."""
        self.outcome, self.reason = outcome, reason

    def again(self) -> Draft:
        """A second attempt at the same evaluation."""
        draft = Draft(self.kind)
        draft.start, draft.faults = self.start, [*self.faults, self.reason]
        return draft

    def record(self, task: Task, entry: Entry) -> Evaluation:
        """The record as it stands."""
        trial, submission, artifact = self.trial, self.submission, self.artifact
        resources = (trial.resources if trial else {}) or (artifact.resources if artifact else {})
        held = merge(self.workers, self.builds)
        reached = f"the evaluation ended before it: {self.outcome.value}"
        checks = self.checks.finish(reached)
        decider = decided_by(self.outcome, self.reason, trial.stage if trial else Stage.BUILD, checks)
        contest = trial.contest if trial else None
        evaluation = Evaluation(
            id=uuid.uuid4().hex, created=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
            task=task.name, task_version=task.version, device=self.device, effort=entry.effort,
            seed=entry.seed, outcome=self.outcome, reason=self.reason, decided_by=decider, faults=self.faults, checks=checks,
            speedup=contest.speedup if contest else None, baselines=self.baselines, timings=contest.timings if contest else [],
            workloads_right=trial.workloads_right if trial else 0.0,
            own_kernel_share=contest.own_kernel_share if contest else None, setup_us=contest.setup_us if contest else {},
            seconds={**(trial.seconds if trial else {}), **self.seconds}, text=entry.text,
            code=submission.code if submission else "", language=submission.language.value if submission else "",
            prompt_hash=entry.prompt_hash, build_log=self.build_log, resources=resources,
            context=entry.context, containment=list(held.active), missing_containment=list(held.missing), versions=versions(),
        )
        return msgspec.structs.replace(evaluation, feedback=write_feedback(evaluation, self.output))


def ended(kind: str, task: Task, entry: Entry, outcome: Outcome, reason: str, faults: Sequence[str] = ()) -> Evaluation:
    """The record of an evaluation that ended before any of its stages said anything."""
    draft = Draft(kind)
    draft.faults = list(faults)
    draft.end(outcome, reason)
    return draft.record(task, entry)
