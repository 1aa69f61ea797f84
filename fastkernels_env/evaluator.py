"""The core: text in, evaluation out. Environments, command line and trainers are thin callers of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import msgspec

from ._batch import judge_batch
from ._draft import Draft, ended
from ._pipeline import Pipeline, head_start, no_collection
from ._pooled import Pooled
from .build import probe_containment
from .clock import now
from .device import resolve
from .journal import Entry, Journal
from .log import append_record
from .pool.base import Pool
from .pool.pool import JudgePool, count_judges
from .pool.quarantine import Quarantine
from .registry import load_task
from .sandbox.layers import ContainmentError, merge, refusal
from .task import Task, TaskError
from .types import Answer, Context, Evaluation, Item, Outcome, Progress, Reward, Stage

if TYPE_CHECKING:
    from .judge.judge import Judge
    from .judge.turnstile import Turnstile


class Scorer(Protocol):
    """Anything that turns a record into a reward; a reward preset is one."""

    def score(self, evaluation: Evaluation) -> Reward:
        """The reward of a record."""


class Evaluator:
    """Judges submissions on one device: one at a time in this process, or several at a time in judges of their own.

    Opening is cheap: processes start, and on CUDA a context is made, at the first evaluation (or `open`). Use as a context manager,
    or call `close`. Thread-safe.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.
        effort: ``full`` or ``quick``, unless a call says otherwise.
        log: JSONL file to which every evaluation is appended.
        strict: Refuse to run a submission where this host lacks a layer of containment. None: as ``FASTKERNELS_STRICT`` says (1 or 0).
        judges: None: this process judges. A number: so many processes do, each an evaluation at a time, and while one of them measures
            the others are stopped. ``auto``: as many as cores and memory allow.
        turnstile: Lets the judge in this process have the device alone, if it shares it.
        pool: Judges elsewhere, in place of `device` and `judges`.

    Raises:
        DeviceError: The device is unknown or absent.
        ValueError: Unknown effort, or no number of judges.
    """

    def __init__(
        self, device: str = "auto", *, effort: str = "full", log: str | Path | None = None, strict: bool | None = None,
        judges: int | str | None = None, turnstile: Turnstile | None = None, pool: Pool | None = None,
    ) -> None:
        check_effort(effort)
        self.device = pool.device if pool else resolve(device)
        self.effort = effort
        self.log = Path(log) if log is not None else None
        self._journal = Journal(self.log) if self.log is not None else None
        self.strict = is_strict(strict)
        self._refusal: str | None = None if self.strict else ""
        self._pipeline = Pipeline(self.device, self.strict, turnstile)
        count = count_judges(judges, self.device)
        self._quarantine = Quarantine()
        self._pool = pool or (JudgePool(self.device, count, self.strict) if count else None)
        self._draft: Draft | None = None
        self._lock = threading.Lock()
        self._thread: ThreadPoolExecutor | None = None

    @property
    def judges(self) -> int:
        """How many processes judge; 0: this one does."""
        return self._pool.judges if self._pool is not None else 0

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
            JudgeBroken: A judge in a process of its own cannot judge there; the message says why.
        """
        entry = self._entry(task, text, seed, effort, context, prompt_hash)
        if self._pool is not None:
            return self._wait(self._submit(self._pool, entry, rewards or {}), entry, rewards or {})
        self._require_containment()
        with self._lock:
            self._pipeline.start_ahead()
        draft = Draft(self.device)
        with head_start(task, text, self.device, self.strict) as draft.early:
            with no_collection():
                loaded = load_task(task)
            self._recover()
            with self._journal.hold(entry) if self._journal else contextlib.nullcontext():
                return self._evaluate(draft, loaded, entry, rewards or {})

    def submit(
        self,
        task: str,
        text: str,
        *,
        seed: int | None = None,
        effort: str | None = None,
        context: Context | None = None,
        prompt_hash: str = "",
        rewards: Mapping[str, Scorer] | None = None,
    ) -> Future[Evaluation]:
        """Hand in one reply and go on; see `evaluate`, of which the future has the result or the error.

        Cancelling the future takes the reply back. Where this process judges, one that is being judged is judged to its end.
        """
        entry = self._entry(task, text, seed, effort, context, prompt_hash)
        if self._pool is not None:
            return self._submit(self._pool, entry, rewards or {})
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="evaluator")
        return self._thread.submit(
            self.evaluate, task, text, seed=entry.seed, effort=effort, context=context, prompt_hash=prompt_hash, rewards=rewards
        )

    def _entry(
        self, task: str, text: str, seed: int | None, effort: str | None, context: Context | None, prompt_hash: str
    ) -> Entry:
        return Entry(
            task=task, text=text, seed=secrets.randbits(48) if seed is None else seed, effort=check_effort(effort or self.effort),
            context=context or Context(), prompt_hash=prompt_hash,
        )

    def _submit(self, pool: Pool, entry: Entry, rewards: Mapping[str, Scorer]) -> Future[Evaluation]:
        if pool.local:
            self._require_containment()
        with no_collection():
            loaded = load_task(entry.task)
        self._recover()
        held = contextlib.ExitStack()
        if self._journal is not None:
            held.enter_context(self._journal.hold(entry))

        def finish(evaluation: Evaluation) -> Evaluation:
            return self.finish(evaluation, rewards)

        with contextlib.ExitStack() as undo:
            undo.callback(held.close)
            future = Pooled(pool, loaded, entry, canary_source(loaded, self.device), self._quarantine, finish).future
            undo.pop_all()
        future.add_done_callback(lambda _: held.close())
        return future

    def _wait(self, future: Future[Evaluation], entry: Entry, rewards: Mapping[str, Scorer]) -> Evaluation:
        try:
            return future.result()
        except KeyboardInterrupt:
            if future.cancel():
                self.finish(ended(self.device, load_task(entry.task), entry, Outcome.FAULT, "interrupted"), rewards)
            raise

    def finish(self, evaluation: Evaluation, rewards: Mapping[str, Scorer]) -> Evaluation:
        """Score a record and log it."""
        try:
            scored = {name: scorer.score(evaluation) for name, scorer in rewards.items()}
            evaluation = msgspec.structs.replace(evaluation, rewards=scored)
        finally:  # a reward that raises costs no record
            if self.log is not None:
                append_record(self.log, evaluation)
        return evaluation

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
        draft.seconds["total"] = now() - draft.start
        evaluation = self.finish(draft.record(loaded, entry), rewards)
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
        handing_in = asyncio.ensure_future(asyncio.to_thread(
            self.submit, task, text, seed=seed, effort=effort, context=context, prompt_hash=prompt_hash, rewards=rewards
        ))
        try:
            future = await asyncio.shield(handing_in)
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):  # that it could not be handed in is as good
                (await handing_in).cancel()  # what a thread has begun to hand in would be judged for nobody
            raise
        return await asyncio.wrap_future(future)

    def evaluate_many(
        self,
        items: Iterable[Item] | AsyncIterable[Item],
        *,
        rewards: Mapping[str, Scorer] | None = None,
        deadline: float | None = None,
        ahead: int | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> AsyncIterator[Answer]:
        """Judge a batch; answers come in the order in which they are ready.

        The same source for the same task, effort and seed is judged once; what repeats it has `Evaluation.duplicate_of`. Leaving the
        iteration early takes back what is not judged yet.

        Args:
            items: Replies; no more of them are asked for than are being judged.
            rewards: Rewards to compute and record, by name.
            deadline: Seconds after which a reply that was handed to a judge is given up: a `fault`, since it has no verdict. None: never.
            ahead: How many are judged or wait for a judge at a time; as many as there are judges if None.
            progress: Called after every answer, and when an item is handed in.

        Raises:
            TaskError: An item names no task. What was handed in before it is answered first.
            LogError: Records could not be appended; every item was answered first.
            ValueError: `deadline` or `ahead` is not above 0 (at once).
        """
        for name, value in (("deadline", deadline), ("ahead", ahead)):
            if value is not None and not value > 0:
                raise ValueError(f"expected {name} to be above 0, or None, got {value!r}")
        return judge_batch(self, items, rewards or {}, deadline, ahead, progress)

    @property
    def alone_seconds(self) -> float:
        """For how long some judge has had the device to itself so far, of several that share it."""
        return self._pool.alone_seconds if self._pool is not None else 0.0

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
        """End every worker. What judges in processes of their own are at work on is given up and raises `PoolClosed`, where it is waited
        for. The evaluator opens again at the next evaluation.
        """
        if self._pool is not None:
            self._pool.close()
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
            self._thread = None
        with self._lock:
            self._pipeline.close()

    def __enter__(self) -> Self:
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


def is_strict(strict: bool | None) -> bool:
    """Whether missing layers of containment are refused: as it is said, or as ``FASTKERNELS_STRICT`` says."""
    return os.environ.get("FASTKERNELS_STRICT", "0") not in ("", "0") if strict is None else strict


def check_effort(effort: str) -> str:
    """An effort's name, if it is one.

    Raises:
        ValueError: It is none.
    """
    if effort not in ("full", "quick"):
        raise ValueError(f"expected effort 'full' or 'quick', got {effort!r}")
    return effort


def canary_source(task: Task, device: str) -> str | None:
    """A plain baseline of the task as a submission; None if there is none."""
    plain = task.plain_baseline(device)
    return f"```python\n{(task.folder / 'baselines' / plain.file).read_text()}\n```" if plain else None
