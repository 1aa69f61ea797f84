"""The core: text in, evaluation out. Environments, command line and trainers are thin callers of it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import gc
import os
import secrets
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

import msgspec

from .build import Build, BuildError, BuildTimeout, has_nvcc, probe_containment
from .checks import CheckList
from .device import DeviceError, MissingTool, resolve
from .feedback import write_feedback
from .forkserver import ForkServer
from .journal import Entry, Journal
from .judge.verdict import decided_by
from .log import append_record
from .registry import load_task, read_outline
from .sandbox.layers import ContainmentError, Report, merge, refusal
from .submission import RejectedError, extract
from .task import Task, TaskError
from .types import (
    Artifact,
    BaselineReport,
    Check,
    Context,
    DeviceInfo,
    Evaluation,
    Language,
    Outcome,
    Reward,
    Speedup,
    Stage,
    Submission,
    Timing,
)
from .versions import versions

if TYPE_CHECKING:
    from .judge.judge import Judge
    from .judge.trial import Trial


class Scorer(Protocol):
    """Anything that turns a record into a reward; a reward preset is one."""

    def score(self, evaluation: Evaluation) -> Reward:
        """The reward of a record."""


class _Draft:
    """An evaluation that is being filled in."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.checks = CheckList(kind)
        self.outcome, self.reason = Outcome.FAULT, ""
        self.submission: Submission | None = None
        self.artifact: Artifact | None = None
        self.build_log = self.output = ""
        self.start = time.perf_counter()
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
        self.outcome, self.reason = outcome, reason

    def again(self) -> _Draft:
        """A second attempt at the same evaluation."""
        draft = _Draft(self.kind)
        draft.start, draft.faults = self.start, [*self.faults, self.reason]
        return draft


class Evaluator:
    """Judges submissions on one device, one at a time.

    Opening is cheap: processes start, and on CUDA a context is made, at the first evaluation (or `open`). Use as a context manager,
    or call `close`.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.
        effort: ``full`` or ``quick``, unless a call says otherwise.
        log: JSONL file to which every evaluation is appended.
        strict: Refuse to run a submission where this host lacks a layer of containment. None: as ``FASTKERNELS_STRICT`` says (1 or 0).

    Raises:
        DeviceError: The device is unknown or absent.
        ValueError: Unknown effort.
    """

    def __init__(
        self, device: str = "auto", *, effort: str = "full", log: str | Path | None = None, strict: bool | None = None
    ) -> None:
        if effort not in ("full", "quick"):
            raise ValueError(f"expected effort 'full' or 'quick', got {effort!r}")
        self.device = resolve(device)
        self.effort = effort
        self.log = Path(log) if log is not None else None
        self._journal = Journal(self.log) if self.log is not None else None
        self.strict = os.environ.get("FASTKERNELS_STRICT", "0") not in ("", "0") if strict is None else strict
        self._refusal: str | None = None if self.strict else ""
        self._judge: Judge | None = None
        self._server: ForkServer | None = None
        self._draft: _Draft | None = None
        self._lock = threading.Lock()

    @property
    def stage(self) -> Stage | None:
        """The stage that the evaluation under way has reached, for a display; None between evaluations. May be read from any thread."""
        draft = self._draft
        if draft is None:
            return None
        return draft.trial.stage if draft.trial else Stage.BUILD

    def evaluate(
        self,
        task: str,
        text: str,
        *,
        seed: int | None = None,
        effort: str | None = None,
        context: Context | None = None,
        prompt_hash: str = "",
        rewards: Mapping[str, Scorer] | None = None,
    ) -> Evaluation:
        """Judge one reply.

        Args:
            task: Name of a task.
            text: The reply as the model wrote it.
            seed: Seeds every input of the evaluation; from the operating system's entropy if None.
            effort: ``full`` or ``quick``.
            context: Ids to record.
            prompt_hash: Hash of the prompt that the reply answers.
            rewards: Rewards to compute and record, by name.

        Returns:
            The record. Faults of ours have outcome `fault`; nothing about a submission raises.

        Raises:
            TaskError: There is no such task (or its folder cannot be loaded).
            ContainmentError: `strict`, and this host lacks a layer of containment.
            LogError: The record could not be appended; its message says where the record was saved instead.
        """
        effort = effort or self.effort
        if effort not in ("full", "quick"):
            raise ValueError(f"expected effort 'full' or 'quick', got {effort!r}")
        self._require_containment()
        self._start_ahead()
        seed = secrets.randbits(48) if seed is None else seed
        draft = _Draft(self.device)
        with _head_start(task, text, self.device, self.strict) as draft.early:
            with _no_collection():
                loaded = load_task(task)
            entry = Entry(task=task, text=text, seed=seed, effort=effort, context=context or Context(), prompt_hash=prompt_hash)
            self._recover()
            with self._journal.hold(entry) if self._journal else contextlib.nullcontext():
                return self._evaluate(draft, loaded, entry, rewards or {})

    def _evaluate(self, draft: _Draft, loaded: Task, entry: Entry, rewards: Mapping[str, Scorer]) -> Evaluation:
        interrupted: BaseException | None = None
        with self._lock:
            self._draft = draft
            try:
                draft = self._attempts(draft, loaded, entry)
            except KeyboardInterrupt as interrupt:
                draft.end(Outcome.FAULT, "interrupted")
                interrupted = interrupt
                self._close()
            finally:
                self._draft = None
        draft.seconds["total"] = time.perf_counter() - draft.start
        evaluation = _finish(draft, loaded, entry)
        try:
            scored = {name: scorer.score(evaluation) for name, scorer in rewards.items()}
            evaluation = msgspec.structs.replace(evaluation, rewards=scored)
        finally:  # a reward that raises costs no record
            if self.log is not None:
                append_record(self.log, evaluation)
        if interrupted is not None:
            raise interrupted
        return evaluation

    async def evaluate_async(
        self,
        task: str,
        text: str,
        *,
        seed: int | None = None,
        effort: str | None = None,
        context: Context | None = None,
        prompt_hash: str = "",
        rewards: Mapping[str, Scorer] | None = None,
    ) -> Evaluation:
        """Judge one reply without blocking the event loop; see `evaluate`."""
        return await asyncio.to_thread(
            self.evaluate, task, text, seed=seed, effort=effort, context=context, prompt_hash=prompt_hash, rewards=rewards
        )

    def open(self) -> Judge:
        """Open the device now.

        Raises:
            DeviceError: It cannot be opened.
        """
        if self._judge is None:
            from .judge.judge import Judge

            self._judge = Judge(self.device, self._server)
            self._judge.host.strict = self.strict
            self._server = None
        return self._judge

    def _require_containment(self) -> None:
        """Try out, once, what this host can do."""
        if self._refusal is None:
            missing = merge([probe_containment()]).missing
            self._refusal = refusal(missing) if missing else ""
        if self._refusal:
            raise ContainmentError(self._refusal)

    def close(self) -> None:
        """End every worker. The evaluator opens again at the next evaluation."""
        with self._lock:
            self._close()

    def _start_ahead(self) -> None:
        """Let the fork server import torch while this process does."""
        with self._lock:
            if self._judge is None and self._server is None:
                self._server = ForkServer(self.device)

    def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._judge is not None:
            self._judge.close()
            self._judge = None

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _recover(self) -> None:
        """Record the evaluations over which an earlier process was killed. Such a record is a fault; a reply over which two died, on a
        device that is healthy, has crashed them.
        """
        for entry in self._journal.take_lost() if self._journal else []:
            draft = _Draft(self.device)
            draft.lasting = entry.deaths < 2
            draft.end(Outcome.FAULT, "the judge's own process was killed while it judged this reply")
            with contextlib.suppress(TaskError):  # a folder that is gone: its reply cannot be judged again
                task = load_task(entry.task)
                with self._lock:
                    self._blame(draft, task, entry)
                assert self.log is not None
                append_record(self.log, _finish(draft, task, entry))

    def _attempts(self, draft: _Draft, task: Task, entry: Entry) -> _Draft:
        """Judge a reply; a fault is retried once, from fresh processes."""
        self._run(draft, task, entry.text, entry.seed, entry.effort)
        if draft.outcome is Outcome.FAULT and not draft.lasting:
            draft = self._draft = draft.again()
            self._run(draft, task, entry.text, entry.seed, entry.effort)
            self._blame(draft, task, entry)
        return draft

    def _blame(self, draft: _Draft, task: Task, entry: Entry) -> None:
        """Call a second fault a crash if a trusted implementation goes the same way without one: breaking the judge must not pay."""
        if draft.outcome is Outcome.FAULT and not draft.lasting and self._healthy(task, entry):
            draft.end(Outcome.CRASHED, f"it broke the judge twice, and a baseline on the same inputs did not: {draft.reason}")

    def _healthy(self, task: Task, entry: Entry) -> bool:
        """Whether a baseline, judged as if it were a submission, on the same seed, is right."""
        source = canary_source(task, self.device)
        if source is None:
            return False
        probe = _Draft(self.device)
        self._run(probe, task, source, entry.seed, entry.effort)
        return probe.outcome in (Outcome.ACCEPTED, Outcome.UNMEASURED)

    def _run(self, draft: _Draft, task: Task, text: str, seed: int, effort: str) -> None:
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
            self._close()  # whatever broke, the next evaluation starts from fresh processes

    def _judge_submission(self, draft: _Draft, task: Task, submission: Submission, seed: int, effort: str) -> None:
        foreign = _is_foreign(submission, self.device)
        if foreign and not has_nvcc():
            _refuse_cuda(draft, "not built: there is no nvcc")
            return
        early = draft.early if draft.early and draft.early.submission == submission else None
        with early or Build(submission, link=not foreign, strict=self.strict) as build:
            judge = self.open()  # in parallel with the compiler
            judge.host.reports = draft.workers
            from .judge.effort import get_effort  # these import torch, as the judge does
            from .judge.trial import Trial

            draft.device = judge.device.info()
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
            with judge.device.judging():
                self._try(draft, draft.trial, judge, task, submission)

    def _build(self, draft: _Draft, build: Build) -> bool:
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

    def _try(self, draft: _Draft, trial: Trial, judge: Judge, task: Task, submission: Submission) -> None:
        from .judge.errors import CompileError
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
        draft.end(*decide(draft.checks, trial.error, trial.tampered, trial.stage, not trial.scope.interpreted))


def _is_foreign(submission: Submission, device: str) -> bool:
    """Whether this device can compile the language and not run it."""
    return submission.language is Language.CUDA and device == "cpu"


@contextlib.contextmanager
def _head_start(task: str, text: str, device: str, strict: bool) -> Iterator[Build | None]:
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


def _refuse_cuda(draft: _Draft, built: str) -> None:
    draft.checks.not_run("build", built)
    draft.end(Outcome.REJECTED, f"CUDA C++ cannot run on a CPU host ({built}); submit C++ or Triton, or judge on a CUDA host")


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
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
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] = time.perf_counter() - start


def canary_source(task: Task, device: str) -> str | None:
    """A baseline of the task as a submission: one that needs no package of its own and no compiler; None if there is none."""
    plain = [b for b in task.baselines if device in b.devices and not b.compile and not b.requires]
    return f"```python\n{(task.folder / 'baselines' / plain[0].file).read_text()}\n```" if plain else None


def _finish(draft: _Draft, task: Task, entry: Entry) -> Evaluation:
    trial, submission, artifact = draft.trial, draft.submission, draft.artifact
    resources = (trial.resources if trial else {}) or (artifact.resources if artifact else {})
    held = merge(draft.workers, draft.builds)
    reached = f"the evaluation ended before it: {draft.outcome.value}"
    checks: list[Check] = draft.checks.finish(reached)
    decider = decided_by(draft.outcome, draft.reason, trial.stage if trial else Stage.BUILD, checks)
    contest = trial.contest if trial else None
    timings: list[Timing] = contest.timings if contest else []
    speedup: Speedup | None = contest.speedup if contest else None
    evaluation = Evaluation(
        id=uuid.uuid4().hex, created=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        task=task.folder.name, task_version=task.version, device=draft.device, effort=entry.effort,
        seed=entry.seed, outcome=draft.outcome, reason=draft.reason, decided_by=decider, faults=draft.faults, checks=checks,
        speedup=speedup, baselines=draft.baselines, timings=timings,
        workloads_right=trial.workloads_right if trial else 0.0,
        own_kernel_share=contest.own_kernel_share if contest else None, setup_us=contest.setup_us if contest else {},
        seconds={**(trial.seconds if trial else {}), **draft.seconds}, text=entry.text,
        code=submission.code if submission else "", language=submission.language.value if submission else "",
        prompt_hash=entry.prompt_hash, build_log=draft.build_log, resources=resources,
        context=entry.context, containment=list(held.active), missing_containment=list(held.missing), versions=versions(),
    )
    return msgspec.structs.replace(evaluation, feedback=write_feedback(evaluation, draft.output))
