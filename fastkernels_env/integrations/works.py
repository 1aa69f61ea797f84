"""Where a grader's work is done: a thread with an event loop of its own, so that any number of loops and threads may ask."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
import weakref
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from ..evaluator import Evaluator

_Result = TypeVar("_Result")


class Works:
    """An evaluator, and the event loop on which everything is judged.

    Args:
        settings: Of a `Grader`: ``device``, ``log``, ``judges``.
        given: The evaluator; None: one is opened.

    Attributes:
        pid: The process in which the thread is; it does not follow a fork.
        close: Takes back what is under way and ends the thread, and with it an evaluator that was not given. Called when the object is
            collected or the interpreter ends, at the latest.
    """

    def __init__(self, settings: Mapping[str, Any], given: Evaluator | None) -> None:
        self.pid = os.getpid()
        self._settings, self._given = settings, given
        self._opened: list[Evaluator] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="grader", daemon=True)
        self._thread.start()
        self.close = weakref.finalize(self, _end, self.pid, self._loop, self._thread, self._opened)

    @functools.cached_property
    def evaluator(self) -> Evaluator:
        """For use on the loop alone, since finding the device may take seconds."""
        if self._given is None:
            from ..evaluator import Evaluator

            judges = self._settings["judges"]
            opened = Evaluator(self._settings["device"], log=self._settings["log"], judges="auto" if judges is None else judges)
            self._opened.append(opened)
            return opened
        return self._given

    @functools.cached_property
    def seats(self) -> asyncio.Semaphore:
        """One for each judge: replies beyond them wait where no deadline runs."""
        return asyncio.Semaphore(max(self.evaluator.judges, 1))

    def run(self, coming: Coroutine[Any, Any, _Result]) -> Future[_Result]:
        """Have something done on the loop. Cancelling the future cancels it there."""
        return asyncio.run_coroutine_threadsafe(coming, self._loop)


def _end(pid: int, loop: asyncio.AbstractEventLoop, thread: threading.Thread, opened: Sequence[Evaluator]) -> None:
    if pid != os.getpid():
        return  # all of this belongs to the process that this one was forked from
    if threading.current_thread() is thread:  # collected there: it cannot wait for itself
        threading.Thread(target=_end, args=(pid, loop, thread, opened)).start()
        return
    asyncio.run_coroutine_threadsafe(_cancel_all(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    for evaluator in opened:
        evaluator.close()


async def _cancel_all() -> None:
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
