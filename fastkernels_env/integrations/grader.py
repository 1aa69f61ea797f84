"""What every trainer asks for: replies in, scores with named parts out, from any event loop and any thread."""

from __future__ import annotations

import asyncio
import math
import os
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import msgspec

from ..types import Context, Evaluation, Item, Outcome, Reward, Stage
from .works import Works

if TYPE_CHECKING:
    from pathlib import Path

    from ..env import RewardLike, Scorer
    from ..evaluator import Evaluator

class Graded(msgspec.Struct, frozen=True):
    """What became of a reply, flat, as trackers want it."""

    score: float | None
    """Total of the reward. None on a fault, which is not the reply's: drop the sample."""
    valid: bool
    """Whether there is a score."""
    outcome: str
    feedback: str
    metrics: dict[str, float]
    """Always the same keys: `Grader.metric_names`. 0.0 where nothing was measured, and on a fault."""
    evaluation: Evaluation


def mean_metrics(graded: Sequence[Graded]) -> dict[str, float]:
    """Means of the metrics of several replies: of ``outcome/...`` over all of them, of the others over those without a fault.

    Returns:
        The same keys as each of them has; 0.0 where there is nothing to average. Empty for no replies.
    """
    valid = [one for one in graded if one.valid]
    names = graded[0].metrics if graded else {}
    counted = {name: graded if name.startswith("outcome/") else valid for name in names}
    return {name: sum(one.metrics[name] for one in among) / len(among) if among else 0.0 for name, among in counted.items()}


class Grader:
    """Judges replies for a trainer: asynchronously, in batches, never longer than a deadline, from any number of event loops and threads.

    Making one is cheap: judges start with the first reply, in processes of their own. Thread-safe. A pickled copy has the settings and
    starts judges of its own. Processes end at `close`, or with the interpreter.

    Args:
        evaluator: Judge with this one, which brings its own device and log, and leave it open at `close`.
        device: ``auto``, ``cpu`` or ``cuda``.
        reward: A preset's name or path, a preset, or a function of an `Evaluation` that returns a float.
        effort: ``full`` or ``quick``.
        log: JSONL file to which every evaluation is appended.
        judges: As for `Evaluator`; None: as many as cores and memory allow.
        deadline: Seconds after which a reply that was handed to a judge is given up: a fault, since it has no verdict. None: never.
            The first reply to reach a judge waits until that has started, which takes some seconds.

    Raises:
        PresetError: No such reward preset.
        ValueError: Unknown effort, no number of judges, a deadline that is not above 0, or settings that a given evaluator has itself.
    """

    def __init__(
        self,
        *,
        evaluator: Evaluator | None = None,
        device: str = "auto",
        reward: RewardLike = "production",
        effort: str = "quick",
        log: str | Path | None = None,
        judges: int | str | None = None,
        deadline: float | None = None,
    ) -> None:
        if deadline is not None and not deadline > 0:
            raise ValueError(f"expected deadline to be above 0, or None, got {deadline!r}")
        self._settings: dict[str, Any] = {
            "device": device, "reward": reward, "effort": effort, "log": log, "judges": judges, "deadline": deadline
        }
        self._given = evaluator
        _check_settings(self._settings, evaluator)
        self.effort, self.deadline = effort, deadline
        self.scorer = _scorer(reward)
        self._lock = threading.Lock()
        self._works: Works | None = None

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Keys of `Graded.metrics`, always the same."""
        return tuple(_metrics(None, Reward(preset="", total=None), self.scorer.part_names))

    async def grade(self, task: str, text: str, *, context: Context | None = None, prompt_hash: str = "") -> Graded:
        """Judge one reply without blocking the event loop. Cancelling takes it back.

        Args:
            task: Name of a task, which may name some of its workloads: ``rms_norm[cpu-decode-16]``.
            text: The reply as the model wrote it.
            context: Ids to record.
            prompt_hash: Hash of the prompt that the reply answers.

        Raises:
            TaskError: There is no such task.
            LogError: The record could not be appended to the log.
        """
        return (await self.grade_many([_item(task, text, context, prompt_hash)]))[0]

    async def grade_many(self, items: Sequence[Item]) -> list[Graded]:
        """Judge a batch; answers in the items' order. The same source for the same task is judged once.

        Raises:
            As `grade`; whatever could be judged has been by then.
        """
        return await asyncio.wrap_future(self._submit(items))

    def grade_sync(self, task: str, text: str, *, context: Context | None = None, prompt_hash: str = "") -> Graded:
        """`grade` for callers that wait; may be called from any thread, where an event loop runs too (which waits as well)."""
        return self.grade_many_sync([_item(task, text, context, prompt_hash)])[0]

    def grade_many_sync(self, items: Sequence[Item]) -> list[Graded]:
        """`grade_many` for callers that wait."""
        future = self._submit(items)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """End the judges, unless the evaluator was given. The grader opens again with the next reply."""
        with self._lock:
            works, self._works = self._works, None
        if works is not None:
            works.close()

    def _submit(self, items: Sequence[Item]) -> Future[list[Graded]]:
        with self._lock:
            if self._works is None or self._works.pid != os.getpid():  # threads do not follow a fork
                self._works = Works(self._settings, self._given)
            works = self._works
        return works.run(self._judge(works, list(items)))

    async def _judge(self, works: Works, items: list[Item]) -> list[Graded]:
        """Judge a batch on the grader's own loop. An item waits for a judge before its deadline begins; a copy of one does not wait."""
        evaluator, graded = works.evaluator, dict[int, Graded]()
        seated, seen = set[int](), set[tuple[object, ...]]()

        async def admitted() -> AsyncIterator[Item]:
            for index, item in enumerate(items):
                if (key := (item.task, item.text, item.seed, item.effort)) not in seen:
                    seen.add(key)
                    await works.seats.acquire()
                    seated.add(index)
                yield msgspec.structs.replace(item, effort=item.effort or self.effort)

        def leave(index: int) -> None:
            if index in seated:
                seated.remove(index)
                works.seats.release()

        rewards = {self.scorer.name: self.scorer}
        try:
            async for answer in evaluator.evaluate_many(admitted(), rewards=rewards, deadline=self.deadline, ahead=len(items) or None):
                leave(answer.index)
                graded[answer.index] = self._graded(answer.evaluation)
        finally:
            for index in list(seated):
                leave(index)
        return [graded[index] for index in range(len(items))]

    def _graded(self, evaluation: Evaluation) -> Graded:
        reward = evaluation.rewards[self.scorer.name]
        return Graded(
            score=reward.total, valid=reward.total is not None, outcome=evaluation.outcome.value, feedback=evaluation.feedback,
            metrics=_metrics(evaluation, reward, self.scorer.part_names), evaluation=evaluation,
        )

    def __getstate__(self) -> dict[str, Any]:
        if self._given is not None:
            raise TypeError("expected a grader without a given evaluator, whose processes cannot be pickled; pass settings instead")
        return self._settings

    def __setstate__(self, settings: Mapping[str, Any]) -> None:
        self.__init__(**settings)  # type: ignore[misc]


def _scorer(reward: RewardLike) -> Scorer:
    """As `as_scorer`, which imports torch; presets need none."""
    from ..reward import load_preset

    if isinstance(reward, str | os.PathLike):
        return load_preset(reward)
    from ..env import as_scorer

    return as_scorer(reward)


def _check_settings(settings: Mapping[str, Any], evaluator: Evaluator | None) -> None:
    """Whether the settings can be used, without opening anything."""
    from ..evaluator import check_effort

    check_effort(settings["effort"])
    if evaluator is not None:
        from ..env import open_evaluator

        open_evaluator(evaluator, settings["device"], settings["log"], settings["judges"])
    elif settings["judges"] is not None:
        from ..pool.pool import count_judges

        count_judges(settings["judges"], "cpu")


def _item(task: str, text: str, context: Context | None, prompt_hash: str) -> Item:
    return Item(task=task, text=text, context=context or Context(), prompt_hash=prompt_hash)


def _metrics(evaluation: Evaluation | None, reward: Reward, parts: Sequence[str]) -> dict[str, float]:
    speedup, seconds = (evaluation.speedup, evaluation.seconds) if evaluation else (None, {})
    outcome = evaluation.outcome if evaluation else None
    return {
        "reward/total": _finite(reward.total),
        **{f"reward/{name}": _finite(reward.parts.get(name)) for name in parts},
        "speedup_low": _finite(speedup.low if speedup else None),
        "speedup": _finite(speedup.estimate if speedup else None),
        "speedup_high": _finite(speedup.high if speedup else None),
        **{f"seconds/{name}": _finite(seconds.get(name)) for name in (*(stage.value for stage in Stage), "total")},
        **{f"outcome/{known.value}": float(outcome is known) for known in Outcome},
    }


def _finite(value: float | None) -> float:
    return value if value is not None and math.isfinite(value) else 0.0
