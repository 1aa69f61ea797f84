"""Batches: many replies in, answers out in the order in which they are ready."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from ._draft import ended
from .journal import Entry
from .log import LogError
from .registry import load_task
from .submission import RejectedError, extract
from .types import Answer, Evaluation, Item, Outcome, Progress

if TYPE_CHECKING:
    from .evaluator import Evaluator, Scorer

_Key = tuple[object, ...]


async def judge_batch(
    evaluator: Evaluator, items: Iterable[Item] | AsyncIterable[Item], rewards: Mapping[str, Scorer], deadline: float | None,
    ahead: int | None, progress: Callable[[Progress], None] | None,
) -> AsyncIterator[Answer]:
    """See `Evaluator.evaluate_many`."""
    batch = _Batch(evaluator, rewards, deadline, progress)
    source, index = _each(items), 0
    running: set[asyncio.Task[Answer]] = set()
    asking: asyncio.Task[Item | None] | None = None
    broken: Exception | None = None
    more = True
    try:
        while True:
            if more and asking is None and len(running) < (ahead or max(evaluator.judges, 1)):
                asking = asyncio.create_task(_next(source))  # beside the others: what is ready does not wait for it
            waiting: set[asyncio.Task[Any]] = {*running, *([asking] if asking else [])}
            if not waiting:
                break
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if asking is not None and asking in done:
                try:
                    item = asking.result()
                except Exception as error:  # of the source, or there is no such task
                    item, broken = None, error
                asking, more = None, item is not None
                if item is not None:
                    running.add(asyncio.create_task(batch.judge(index, item)))
                    index += 1
            ready, running = running & done, running - done
            for task in ready:
                yield task.result()
        if broken is not None:
            raise broken
        batch.complain()
    finally:
        left: set[asyncio.Task[Any]] = {*running, *([asking] if asking else [])}
        for unfinished in left:
            unfinished.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await source.aclose()


async def _next(source: AsyncIterator[Item]) -> Item | None:
    """The next item; None if there are no more.

    Raises:
        TaskError: It names no task.
        ValueError: Its deadline is not above 0.
    """
    item = await anext(source, None)
    if item is not None:
        await asyncio.to_thread(load_task, item.task)
        if item.deadline is not None and not item.deadline > 0:
            raise ValueError(f"expected the deadline of an item to be above 0, or None, got {item.deadline!r}")
    return item


async def _each(items: Iterable[Item] | AsyncIterable[Item]) -> AsyncGenerator[Item, None]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


class _NoVerdict(Exception):
    """What an item was waiting for came to nothing."""


class _Batch:
    """What the items of a batch share."""

    def __init__(
        self, evaluator: Evaluator, rewards: Mapping[str, Scorer], deadline: float | None, progress: Callable[[Progress], None] | None
    ) -> None:
        self._evaluator, self._rewards, self._deadline, self._progress = evaluator, rewards, deadline, progress
        self._first: dict[_Key, asyncio.Future[Evaluation]] = {}
        self._judging = self._done = self._duplicates = 0
        self._outcomes: dict[str, int] = {}
        self._unlogged: list[LogError] = []

    async def judge(self, index: int, item: Item) -> Answer:
        """The answer to one item, which may be that to an earlier one."""
        self._judging += 1
        self._tell()
        key = await asyncio.to_thread(self._key, item)
        known = self._first.get(key)
        if known is None:
            known = self._first[key] = asyncio.get_running_loop().create_future()
            known.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody else may ask
            try:
                evaluation = await self._answered(self._evaluate(item))
            except BaseException as error:
                del self._first[key]  # what repeats it is judged after all
                known.set_exception(error if isinstance(error, Exception) else asyncio.CancelledError())
                raise
            if evaluation.outcome is Outcome.FAULT:
                del self._first[key]  # no verdict to share
                known.set_exception(_NoVerdict())
            else:
                known.set_result(evaluation)
        else:
            try:
                evaluation = await self._answered(asyncio.to_thread(self._repeat, item, await asyncio.shield(known)))
            except Exception:
                self._judging -= 1
                return await self.judge(index, item)
            self._duplicates += 1
        self._judging, self._done = self._judging - 1, self._done + 1
        self._outcomes[evaluation.outcome.value] = self._outcomes.get(evaluation.outcome.value, 0) + 1
        self._tell()
        return Answer(index=index, item=item, evaluation=evaluation)

    async def _answered(self, coming: Awaitable[Evaluation]) -> Evaluation:
        """An evaluation; that its record could not be logged is told when all others are answered."""
        try:
            return await coming
        except LogError as error:
            if error.evaluation is None:
                raise
            self._unlogged.append(error)
            return error.evaluation

    def complain(self) -> None:
        """Call when everything is answered.

        Raises:
            LogError: Records could not be logged.
        """
        if self._unlogged:
            first, *others = self._unlogged
            more = [error.saved for error in others if error.saved]
            where = f", saved in {', '.join(map(str, more))}" if more else ""
            beside = f"; {len(others)} more evaluations of this batch could not be logged either{where}" if others else ""
            raise LogError(f"{first}{beside}", first.saved, first.evaluation, more) from first

    def _key(self, item: Item) -> _Key:
        """The same for replies that are one submission."""
        effort = item.effort or self._evaluator.effort
        with contextlib.suppress(RejectedError):
            submission = extract(item.text, load_task(item.task), self._evaluator.device)
            return item.task, effort, item.seed, submission.language, submission.code
        return item.task, effort, item.seed, item.text

    async def _evaluate(self, item: Item) -> Evaluation:
        deadline = item.deadline or self._deadline
        try:
            return await asyncio.wait_for(self._evaluator.evaluate_async(
                item.task, item.text, seed=item.seed, effort=item.effort, context=item.context, prompt_hash=item.prompt_hash,
                rewards=self._rewards,
            ), deadline)
        except TimeoutError:
            return await asyncio.to_thread(self._give_up, item, deadline or 0.0)

    def _give_up(self, item: Item, deadline: float) -> Evaluation:
        entry = Entry(
            task=item.task, text=item.text, seed=item.seed or 0, effort=item.effort or self._evaluator.effort, context=item.context,
            prompt_hash=item.prompt_hash,
        )
        reason = f"no verdict within the {deadline:g} s that the caller allowed"
        record = ended(self._evaluator.device, load_task(item.task), entry, Outcome.FAULT, reason)
        return self._evaluator.finish(record, self._rewards)

    def _repeat(self, item: Item, evaluation: Evaluation) -> Evaluation:
        """The record of an item that repeats one."""
        own = msgspec.structs.replace(
            evaluation, id=uuid.uuid4().hex, duplicate_of=evaluation.id, text=item.text, context=item.context, prompt_hash=item.prompt_hash,
        )
        return self._evaluator.finish(own, self._rewards)

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(Progress(
                judging=self._judging, done=self._done, duplicates=self._duplicates, outcomes=dict(self._outcomes)
            ))
