"""Judge the mutants of a task. The next ones compile while one is judged."""

from __future__ import annotations

import datetime
import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..build import Build
from ..judge.cases import derive_seed
from ..submission import RejectedError, extract
from ..task import TaskError
from ..types import Language, Outcome
from .judging import ALIVE, Judged, built, judge_artifact
from .records import Result, Status

if TYPE_CHECKING:
    from ..evaluator import Evaluator
    from ..task import Task
    from ..types import Artifact, Submission
    from .candidates import Candidate

AHEAD = 2
"""Builds that run while a mutant is judged."""
AGAIN = 4
"""Fresh seeds for a mutant that was not rejected at first."""
_STILLBORN = frozenset({Outcome.BUILD_FAILED, Outcome.REJECTED})


class Verdict(NamedTuple):
    """A candidate's status, the judgement that it rests on, and how many of how many judgements rejected it."""

    status: Status
    judged: Judged
    kills: int = 0
    tries: int = 0


class Runner:
    """Judges candidates of one task on one device.

    Args:
        evaluator: Owns the judge.
        task: The task.
        seed: Seeds the inputs of every judgement.
    """

    def __init__(self, evaluator: Evaluator, task: Task, seed: int) -> None:
        self.evaluator, self.task, self.seed = evaluator, task, seed
        self._definition = b"".join((task.folder / name).read_bytes() for name in ("task.py", "workloads.jsonl"))
        self._machine_code: dict[str, bytes] = {}

    def key(self, candidate: Candidate) -> str:
        """Hash of all that decides a candidate's result, but for the judge."""
        parts = (candidate.source.encode(), candidate.equivalent.encode(), self._definition, str(self.seed).encode())
        return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]

    def check_seeds(self, names: Iterable[str]) -> None:
        """Whether what mutants are made of is right itself; keeps its machine code to compare with.

        Raises:
            TaskError: A seed is rejected.
        """
        for name in names:
            with Build(extract(self.task.seeds()[name], self.task, self.evaluator.device)) as build:
                judged = artifact = built(build)
                if not isinstance(artifact, Judged):
                    judged = self._judge(build.submission, artifact, name, 0)
                    self._machine_code[name] = _machine_code(artifact)
            assert isinstance(judged, Judged)
            if judged.outcome not in ALIVE:
                raise TaskError(
                    f"expected the seed {name} of {self.task.folder.name!r} to be right, it is {judged.outcome.value}: {judged.reason}"
                )

    def run(self, candidates: Sequence[Candidate], done: Callable[[Result], None]) -> None:
        """Judge candidates in order; `done` gets every result as soon as it is there."""
        for candidate, build in _built(candidates, self.task, self.evaluator.device):
            start = time.perf_counter()
            verdict = self._verdict(candidate, build)
            done(self._result(candidate, verdict, time.perf_counter() - start))

    def _verdict(self, candidate: Candidate, build: Build | RejectedError | None) -> Verdict:
        if build is None:
            return Verdict(Status.NOT_RUN, Judged(Outcome.UNMEASURED, candidate.not_run))
        if isinstance(build, RejectedError):
            return Verdict(Status.STILLBORN, Judged(Outcome.REJECTED, str(build), "contract"))
        artifact = built(build)
        judged = artifact if isinstance(artifact, Judged) else self._judge(build.submission, artifact, candidate.id, 0)
        if judged.outcome in _STILLBORN:
            return Verdict(Status.STILLBORN, judged)
        if judged.outcome is Outcome.FAULT:
            return Verdict(Status.ERROR, judged)
        if judged.outcome not in ALIVE or isinstance(artifact, Judged):
            return Verdict(Status.DISPROVED if candidate.equivalent else Status.KILLED, judged, 1, 1)
        if candidate.equivalent:
            return Verdict(Status.EQUIVALENT, Judged(judged.outcome, candidate.equivalent), 0, 1)
        if (code := _machine_code(artifact)) and code == self._machine_code.get(candidate.seed):
            return Verdict(Status.EQUIVALENT, Judged(judged.outcome, "it compiles to the same machine code"), 0, 1)
        return self._insist(candidate, build.submission, artifact, judged)

    def _insist(self, candidate: Candidate, submission: Submission, artifact: Artifact, first: Judged) -> Verdict:
        """Judge a survivor with further seeds."""
        judgements = [first, *(self._judge(submission, artifact, candidate.id, number) for number in range(1, AGAIN + 1))]
        if faults := [judged for judged in judgements if judged.outcome is Outcome.FAULT]:
            return Verdict(Status.ERROR, faults[0])
        killed = [judged for judged in judgements if judged.outcome not in ALIVE]
        if killed:
            return Verdict(Status.WEAK, killed[0], len(killed), len(judgements))
        return Verdict(Status.SURVIVED, first, 0, len(judgements))

    def _judge(self, submission: Submission, artifact: Artifact, name: str, number: int) -> Judged:
        """One judgement; a fault of ours is tried once more."""
        seed = derive_seed(self.seed, name, number)
        judged = judge_artifact(self.evaluator, self.task, submission, artifact, seed)
        return judge_artifact(self.evaluator, self.task, submission, artifact, seed) if judged.outcome is Outcome.FAULT else judged

    def _result(self, candidate: Candidate, verdict: Verdict, seconds: float) -> Result:
        judged, ran = verdict.judged, verdict.status is not Status.NOT_RUN
        return Result(
            task=self.task.folder.name, id=candidate.id, kind=candidate.kind, seed=candidate.seed, operator=candidate.operator,
            line=candidate.line, before=candidate.before, after=candidate.after, status=verdict.status,
            outcome=judged.outcome.value if ran else "", reason=judged.reason, check=judged.check, kills=verdict.kills,
            tries=verdict.tries, key=self.key(candidate), device=self.evaluator.device, seconds=round(seconds, 3),
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )


_Started = tuple["Candidate", Build | RejectedError | None]


def _built(candidates: Sequence[Candidate], task: Task, device: str) -> Iterator[_Started]:
    """Candidates with their builds, which are started ahead and removed behind."""
    waiting: deque[_Started] = deque()
    todo = iter(candidates)
    try:
        while True:
            while len(waiting) <= AHEAD and (candidate := next(todo, None)):
                waiting.append((candidate, _start(candidate, task, device)))
            if not waiting:
                return
            yield waiting[0]
            _close(waiting.popleft())
    finally:
        for started in waiting:
            _close(started)


def _start(candidate: Candidate, task: Task, device: str) -> Build | RejectedError | None:
    if candidate.not_run:
        return None
    try:
        return Build(extract(candidate.source, task, device))
    except RejectedError as error:
        return error


def _close(started: _Started) -> None:
    if isinstance(started[1], Build):
        started[1].close()


def _machine_code(artifact: Artifact) -> bytes:
    """What the compiler made of native code; empty for other languages."""
    return b"" if artifact.language is Language.PYTHON else Path(artifact.path).read_bytes()
