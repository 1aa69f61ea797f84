"""The way of one reply: extraction, build, trial, verdict. Owns the processes that it needs; `Evaluator` is its public face."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ._draft import Draft
from .build import Build, BuildError, BuildTimeout, has_nvcc
from .clock import now
from .device import DeviceError, MissingTool
from .forkserver import ForkServer
from .registry import read_outline
from .submission import RejectedError, extract
from .task import Task, TaskError
from .types import Language, Outcome, Stage, Submission

if TYPE_CHECKING:
    from .judge.judge import Judge
    from .judge.trial import Trial
    from .judge.turnstile import Turnstile


class Pipeline:
    """Judges replies on one device, one at a time; not thread-safe.

    Args:
        device: ``cpu`` or ``cuda``.
        strict: Refuse a worker or a build that lacks a layer of containment.
        turnstile: Lets the judge have the device alone; None where nobody shares it.
    """

    def __init__(self, device: str, strict: bool, turnstile: Turnstile | None = None) -> None:
        self.device, self.strict, self._turnstile = device, strict, turnstile
        self._judge: Judge | None = None
        self._server: ForkServer | None = None

    def open(self) -> Judge:
        """Open the device now.

        Raises:
            DeviceError: It cannot be opened.
        """
        if self._judge is None:
            from .judge.judge import Judge

            self._judge = Judge(self.device, self._server, self._turnstile)
            self._judge.host.strict = self.strict
            self._server = None
        return self._judge

    def start_ahead(self) -> None:
        """Let the fork server import torch while this process does."""
        if self._judge is None and self._server is None:
            with contextlib.suppress(OSError):  # no descriptor or process left: it is met again, and recorded, where the judge opens
                self._server = ForkServer(self.device)

    def close(self) -> None:
        """End every process."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._judge is not None:
            self._judge.close()
            self._judge = None

    def run(self, draft: Draft, task: Task, text: str, seed: int, effort: str) -> None:
        """Fill the draft; every exception but an interrupt becomes a fault."""
        try:
            draft.submission = extract(text, task, self.device)
            draft.checks.passed("contract")
        except RejectedError as error:
            draft.checks.failed("contract", str(error))
            draft.end(Outcome.REJECTED, str(error))
            return
        try:
            self._judge_submission(draft, task, draft.submission, seed, effort)
        except (TaskError, DeviceError) as error:
            draft.lasting = isinstance(error, TaskError | MissingTool)
            draft.end(Outcome.FAULT, str(error))
        except Exception as error:
            from .judge.errors import JudgeFault, LastingFault

            draft.lasting = isinstance(error, LastingFault)
            draft.end(Outcome.FAULT, str(error) if isinstance(error, JudgeFault) else f"{type(error).__name__}: {error}")
        if draft.outcome is Outcome.FAULT:
            self.close()  # whatever broke, the next evaluation starts from fresh processes

    def _judge_submission(self, draft: Draft, task: Task, submission: Submission, seed: int, effort: str) -> None:
        foreign = _is_foreign(submission, self.device)
        if foreign and not has_nvcc():
            _refuse_cuda(draft, "not built: there is no nvcc")
            return
        early = draft.early if draft.early and draft.early.submission == submission else None
        with early or Build(submission, link=not foreign, strict=self.strict) as build:
            judge = self.open()  # in parallel with the compiler
            judge.host.reports = draft.workers
            judge.host.check_room(task)
            from .judge.effort import get_effort  # these import torch, as the judge does
            from .judge.trial import Trial

            draft.device = judge.device.info(task.ranks)
            if not foreign:
                judge.baselines.prefetch(task, get_effort(effort).compiled)
            interpreted = self.device == "cpu" and submission.language is Language.PYTHON and bool(submission.kernels)
            draft.trial = Trial(judge, task, seed, get_effort(effort), draft.checks, interpreted)
            if submission.language is not Language.PYTHON and not foreign:
                draft.trial.draw_ahead()
            if not self._build(draft, build):
                return
            if foreign:
                _refuse_cuda(draft, "it compiles for sm_90a")
                return
            alone, waited = judge.turnstile.seconds, judge.turnstile.waited
            with judge.device.judging():
                self._try(draft, draft.trial, judge, task, submission)
            draft.seconds["alone"] = judge.turnstile.seconds - alone
            draft.seconds["waited"] = judge.turnstile.waited - waited

    def _build(self, draft: Draft, build: Build) -> bool:
        with _timed(draft.seconds, Stage.BUILD.value):
            try:
                draft.artifact = build.result()
            except BuildError as error:
                draft.checks.failed("build", error.summary)
                draft.build_log = error.log
                outcome = Outcome.TIMED_OUT if isinstance(error, BuildTimeout) else Outcome.BUILD_FAILED
                draft.end(outcome, error.summary)
            finally:
                draft.builds += [build.report] if build.report else []
        if draft.artifact is not None:
            draft.seconds[Stage.BUILD.value] = build.seconds
            draft.checks.passed("build")
            draft.build_log = draft.artifact.log
        return draft.artifact is not None

    def _try(self, draft: Draft, trial: Trial, judge: Judge, task: Task, submission: Submission) -> None:
        from .judge.errors import CompileError
        from .judge.memory import blame_nobody_for_memory
        from .judge.verdict import decide

        assert draft.artifact is not None
        try:
            trial.run(draft.artifact, submission.kernels)
        except CompileError as error:
            draft.checks.failed("build", error.summary)
            draft.build_log = error.log
            draft.end(Outcome.BUILD_FAILED, error.summary)
            return
        finally:
            trial.close()
            draft.baselines = judge.baselines.reports(task)
            draft.output = trial.output
        if trial.error is not None:
            blame_nobody_for_memory(judge, f"{trial.error.summary}\n{trial.error.detail}")
        draft.end(*decide(draft.checks, trial.error, trial.tampered, trial.stage, not trial.scope.interpreted))



def _is_foreign(submission: Submission, device: str) -> bool:
    """Whether this device can compile the language and not run it."""
    return submission.language is Language.CUDA and device == "cpu"


@contextlib.contextmanager
def head_start(task: str, text: str, device: str, strict: bool = False) -> Iterator[Build | None]:
    """A build of native code that starts before torch is imported, the first time; None where there is nothing to gain."""
    outline = read_outline(task) if "torch" not in sys.modules else None
    submission = None
    if outline is not None:
        with contextlib.suppress(RejectedError):
            submission = extract(text, outline, device)
    build = None
    if submission is not None and submission.language is not Language.PYTHON and not _is_foreign(submission, device):
        with contextlib.suppress(OSError):  # a full disk: it is met again, and recorded, where the build is part of the evaluation
            build = Build(submission, strict=strict)
    with build or contextlib.nullcontext():
        yield build


def _refuse_cuda(draft: Draft, built: str) -> None:
    draft.checks.not_run("build", built)
    draft.end(Outcome.REJECTED, f"CUDA C++ cannot run on a CPU host ({built}); submit C++ or Triton, or judge on a CUDA host")


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Import without looking for garbage, which imports do not make: a tenth of the time that torch takes."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = now()
    try:
        yield
    finally:
        seconds[name] = now() - start
