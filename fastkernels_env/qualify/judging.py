"""Judge a source without the clock: build, smoke, verify. What is wrong is rejected before it would be timed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..build import Build, BuildError, BuildTimeout
from ..checks import CHECKS, CheckList
from ..device import DeviceError
from ..judge.effort import get_effort
from ..judge.errors import CompileError, JudgeFault
from ..judge.trial import Trial
from ..judge.verdict import decide
from ..submission import RejectedError, extract
from ..types import Language, Outcome, Stage

if TYPE_CHECKING:
    from ..evaluator import Evaluator
    from ..judge.effort import Effort
    from ..task import Task
    from ..types import Artifact, Submission

ALIVE = frozenset({Outcome.ACCEPTED, Outcome.UNMEASURED})
"""Outcomes of a source in which nothing wrong was found."""


class Judged(NamedTuple):
    """What became of a source.

    Attributes:
        outcome: `UNMEASURED` if every check that ran has passed; there is no speed.
        reason: One sentence.
        check: Name of the check that decided; the stage where the worker died or hung; empty if nothing is wrong.
    """

    outcome: Outcome
    reason: str
    check: str = ""


def judge_without_clock(evaluator: Evaluator, task: Task, source: str, seed: int) -> Judged:
    """Judge a source as an evaluation with effort ``full`` would, up to the clock.

    Args:
        evaluator: Of the device to judge on.
        task: The task.
        source: A reply, or bare source code.
        seed: Seeds every input.

    Returns:
        The verdict. Nothing about the source raises; a fault of ours has outcome `fault`.
    """
    try:
        submission = extract(source, task, evaluator.device)
    except RejectedError as error:
        return Judged(Outcome.REJECTED, str(error), "contract")
    with Build(submission) as build:
        artifact = built(build)
        return artifact if isinstance(artifact, Judged) else judge_artifact(evaluator, task, submission, artifact, seed)


def built(build: Build) -> Artifact | Judged:
    """Wait, once, for what a build makes; the verdict if it makes nothing."""
    try:
        return build.result()
    except BuildError as error:
        outcome = Outcome.TIMED_OUT if isinstance(error, BuildTimeout) else Outcome.BUILD_FAILED
        return Judged(outcome, error.summary, "build")
    except DeviceError as error:
        return Judged(Outcome.FAULT, str(error))


def judge_artifact(evaluator: Evaluator, task: Task, submission: Submission, artifact: Artifact, seed: int) -> Judged:
    """`judge_without_clock` for a submission that is built. It may be judged again, with other seeds."""
    try:
        return _judge(evaluator, task, submission, artifact, seed)
    except CompileError as error:
        return Judged(Outcome.BUILD_FAILED, error.summary, "build")
    except (JudgeFault, DeviceError) as error:
        evaluator.close()  # whatever broke, the next one starts from fresh processes
        return Judged(Outcome.FAULT, str(error))


def _judge(evaluator: Evaluator, task: Task, submission: Submission, artifact: Artifact, seed: int) -> Judged:
    full = get_effort("full")
    if not (evaluator.device == "cpu" and submission.language is Language.PYTHON and submission.kernels):
        return _try(evaluator, task, submission, artifact, seed, full, interpreted=False)
    # The interpreter is slow: a few cases first, and all of them only for what these do not reject.
    screened = _try(evaluator, task, submission, artifact, seed, full._replace(hidden=1), interpreted=True)
    return _try(evaluator, task, submission, artifact, seed, full, interpreted=True) if screened.outcome in ALIVE else screened


def _try(
    evaluator: Evaluator, task: Task, submission: Submission, artifact: Artifact, seed: int, effort: Effort, *, interpreted: bool
) -> Judged:
    judge, checks = evaluator.open(), CheckList(evaluator.device)
    checks.passed("contract")
    checks.passed("build")
    trial = Trial(judge, task, seed, effort, checks, interpreted)
    try:
        with judge.device.judging():
            trial.run(artifact, submission.kernels, profile=False)
    finally:
        trial.close()
    for spec in CHECKS:
        if spec.stage is Stage.INTEGRATE:
            checks.waive(spec.name, "a mutant is judged by what it computes")
    outcome, reason = decide(checks, trial.error, trial.tampered, trial.stage, timed=False)
    if outcome in ALIVE:
        return Judged(outcome, reason)
    failed = checks.first_failure(Stage.SMOKE) or checks.first_failure(Stage.VERIFY)
    return Judged(outcome, reason, failed.name if failed else trial.stage.value)
