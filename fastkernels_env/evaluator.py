"""The core: text in, evaluation out. Environments, command line and trainers are thin callers of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

import msgspec

from ._draft import Draft
from ._pipeline import Pipeline, head_start, no_collection
from .build import probe_containment
from .device import resolve
from .journal import Entry, Journal
from .log import append_record
from .registry import load_task
from .sandbox.layers import ContainmentError, merge, refusal
from .task import Task, TaskError
from .types import (
    Context,
    Evaluation,
    Outcome,
    Reward,
    Stage,
)

if TYPE_CHECKING:
    from .judge.judge import Judge


class Scorer(Protocol):
    """Anything that turns a record into a reward; a reward preset is one."""

    def score(self, evaluation: Evaluation) -> Reward:
        """The reward of a record."""


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
        self._pipeline = Pipeline(self.device, self.strict)
        self._draft: Draft | None = None
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
        with self._lock:
            self._pipeline.start_ahead()
        seed = secrets.randbits(48) if seed is None else seed
        draft = Draft(self.device)
        with head_start(task, text, self.device, self.strict) as draft.early:
            with no_collection():
                loaded = load_task(task)
            entry = Entry(task=task, text=text, seed=seed, effort=effort, context=context or Context(), prompt_hash=prompt_hash)
            self._recover()
            with self._journal.hold(entry) if self._journal else contextlib.nullcontext():
                return self._evaluate(draft, loaded, entry, rewards or {})

    def _evaluate(self, draft: Draft, loaded: Task, entry: Entry, rewards: Mapping[str, Scorer]) -> Evaluation:
        interrupted: BaseException | None = None
        with self._lock:
            self._draft = draft
            try:
                draft = self._attempts(draft, loaded, entry)
            except KeyboardInterrupt as interrupt:
                draft.end(Outcome.FAULT, "interrupted")
                interrupted = interrupt
                self._pipeline.close()
            finally:
                self._draft = None
        draft.seconds["total"] = time.perf_counter() - draft.start
        evaluation = draft.record(loaded, entry)
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
        return self._pipeline.open()

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
            self._pipeline.close()

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _recover(self) -> None:
        """Record the evaluations over which an earlier process was killed. Such a record is a fault; a reply over which two died, on a
        device that is healthy, has crashed them.
        """
        for entry in self._journal.take_lost() if self._journal else []:
            draft = Draft(self.device)
            draft.lasting = entry.deaths < 2
            draft.end(Outcome.FAULT, "the judge's own process was killed while it judged this reply")
            with contextlib.suppress(TaskError):  # a folder that is gone: its reply cannot be judged again
                task = load_task(entry.task)
                with self._lock:
                    self._blame(draft, task, entry)
                assert self.log is not None
                append_record(self.log, draft.record(task, entry))

    def _attempts(self, draft: Draft, task: Task, entry: Entry) -> Draft:
        """Judge a reply; a fault is retried once, from fresh processes."""
        self._pipeline.run(draft, task, entry.text, entry.seed, entry.effort)
        if draft.outcome is Outcome.FAULT and not draft.lasting:
            draft = self._draft = draft.again()
            self._pipeline.run(draft, task, entry.text, entry.seed, entry.effort)
            self._blame(draft, task, entry)
        return draft

    def _blame(self, draft: Draft, task: Task, entry: Entry) -> None:
        """Call a second fault a crash if a trusted implementation goes the same way without one: breaking the judge must not pay."""
        if draft.outcome is Outcome.FAULT and not draft.lasting and self._healthy(task, entry):
            draft.end(Outcome.CRASHED, f"it broke the judge twice, and a baseline on the same inputs did not: {draft.reason}")

    def _healthy(self, task: Task, entry: Entry) -> bool:
        """Whether a baseline, judged as if it were a submission, on the same seed, is right."""
        source = canary_source(task, self.device)
        if source is None:
            return False
        probe = Draft(self.device)
        self._pipeline.run(probe, task, source, entry.seed, entry.effort)
        return probe.outcome in (Outcome.ACCEPTED, Outcome.UNMEASURED)


def canary_source(task: Task, device: str) -> str | None:
    """A baseline of the task as a submission: one that needs no package of its own and no compiler; None if there is none."""
    plain = [b for b in task.baselines if device in b.devices and not b.compile and not b.requires]
    return f"```python\n{(task.folder / 'baselines' / plain[0].file).read_text()}\n```" if plain else None
