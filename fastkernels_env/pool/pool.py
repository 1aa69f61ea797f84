"""A pool of judges on one device: orders go to whichever is free."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection
from concurrent.futures import Future

from ..journal import Entry
from ..registry import is_builtin, load_task, split_name
from ..types import Evaluation
from .arbiter import Arbiter
from .base import PoolClosed
from .frames import Order
from .seat import END_SECONDS, Job, Seat

_JUDGE_BYTES = 3 << 30
"""Memory of the host that a judge and its workers may need."""
_MOST_MEASURING = 4
"""Judges of a GPU that hold rings at a time, of up to a 64th of its memory; sets, copies and a second ring make that four times as much."""
_MOST_PASSED = 4
"""So many jobs for every judge may be taken before an earlier one, so that baselines need not be started anew."""
_MOST_JUDGES = 12
"""Beyond these, measuring, which is done by one at a time, takes all of the time: 0.6 of 6.5 s (docs/measurements/throughput.md)."""


def count_judges(judges: int | str | None, device: str) -> int:
    """How many judges are meant; 0 for None.

    Raises:
        ValueError: It is no number of judges.
    """
    if judges is None:
        return 0
    if judges == "auto":
        if device == "cuda":
            return 1  # more do work, but have run for minutes only (docs/measurements/throughput.md), and not against the threat suite
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return max(min(len(os.sched_getaffinity(0)), memory // _JUDGE_BYTES, _MOST_JUDGES), 1)
    if isinstance(judges, bool) or not isinstance(judges, int) or judges < 1:
        raise ValueError(f"expected judges to be a number of at least 1, 'auto' or None, got {judges!r}")
    return judges


class JudgePool:
    """Judges of one device. Processes start with the first order. Thread-safe.

    Args:
        device: ``cpu`` or ``cuda``.
        judges: How many.
        strict: As for `Evaluator`.

    Attributes:
        arbiter: Says who measures.
    """

    local = True

    def __init__(self, device: str, judges: int, strict: bool) -> None:
        self.device, self.strict, self._count = device, strict, judges
        self.arbiter = Arbiter(min(judges, _MOST_MEASURING) if device == "cuda" else judges, hurried=device == "cuda")
        self._jobs: list[Job] = []
        self._running: list[Job] = []
        self._condition = threading.Condition()
        self._closed = False
        self._seats: list[Seat] = []

    @property
    def judges(self) -> int:
        """How many there are."""
        return self._count

    @property
    def environment(self) -> dict[str, str]:
        """What judges get besides the caller's: on a GPU one hardware queue, since they use one stream."""
        return {"CUDA_DEVICE_MAX_CONNECTIONS": "1"} if self.device == "cuda" else {}

    @property
    def alone_seconds(self) -> float:
        """For how long one judge had the device to itself."""
        return self.arbiter.seconds

    def submit(self, entry: Entry, alone: bool = False) -> Future[Evaluation]:
        """Have a reply judged.

        Args:
            entry: The reply.
            alone: Whether no other evaluation of this pool may run meanwhile.

        Returns:
            The record, to come; `JudgeLost` if the judge's process ended, `PoolClosed` if the pool did. Cancelling it takes the order
            back, also from the judge that is at work on it.
        """
        future: Future[Evaluation] = Future()
        folder = load_task(entry.task).folder
        order = Order.of(entry, "" if is_builtin(folder) else str(folder))
        with self._condition:
            if self._closed:
                raise PoolClosed("the pool is closed")
            self._start()
            self._jobs.append(Job(order, future, alone))
            self._condition.notify_all()
        return future

    def _start(self) -> None:
        """Give every seat a judge, the first time."""
        if not self._seats:
            self._seats = [Seat(self) for _ in range(self._count)]
            for seat in self._seats:
                seat.start()

    def take(self, tasks: Collection[str]) -> Job | None:
        """The next job; None once the pool is closed. Blocks.

        Args:
            tasks: Those whose baselines the judge has at hand: a job of one of them comes first, but no job is passed over for long.
        """
        with self._condition:
            while not self._closed:
                if (chosen := self._choose(tasks)) is not None:
                    for job in self._jobs[:chosen]:
                        job.passed += 1
                    self._running.append(self._jobs.pop(chosen))
                    return self._running[-1]
                self._condition.wait()
            return None

    def _choose(self, tasks: Collection[str]) -> int | None:
        """Place of the job that may begin; None while there is none."""
        apart = next((place for place, job in enumerate(self._jobs) if job.alone), None)
        if not self._jobs or any(job.alone for job in self._running) or (apart is not None and self._running):
            return None  # what is to be judged alone waits for the others, and they for it
        if apart is not None:
            return apart
        within = self._jobs if self._jobs[0].passed < _MOST_PASSED * self._count else self._jobs[:1]
        return next((place for place, job in enumerate(within) if split_name(job.order.entry.task)[0] in tasks), 0)

    def done(self, job: Job) -> None:
        """A job that was taken is over."""
        with self._condition:
            self._running.remove(job)
            self._condition.notify_all()

    def take_back(self, future: Future[Evaluation]) -> None:
        """Forget an order, or interrupt the judge that is at work on it."""
        with self._condition:
            waiting = [job for job in self._jobs if job.future is future]
            for job in waiting:
                self._jobs.remove(job)
            if not waiting:
                for seat in self._seats:
                    seat.interrupt(future)
        future.cancel()

    def processes(self) -> list[int]:
        """Process ids of the judges."""
        return [pid for seat in self._seats if (pid := seat.pid)]

    def close(self) -> None:
        """End every judge; orders that wait are answered with `PoolClosed`. The pool opens again with the next order."""
        with self._condition:
            self._closed = True
            left, self._jobs = self._jobs, []
            self._condition.notify_all()
        for job in left:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(PoolClosed("the pool was closed before this was judged"))
        for seat in self._seats:
            seat.stop()
        for seat in self._seats:
            seat.join(END_SECONDS)
        self._seats, self._closed = [], False
