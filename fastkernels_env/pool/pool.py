"""A pool of judges on one device: orders go to whichever is free; one that dies is replaced, and its order told apart from a verdict."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import mmap
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Collection
from concurrent.futures import Future
from pathlib import Path
from typing import Protocol

from ..clock import Stops
from ..device.base import fixed_file
from ..journal import Entry
from ..judge.effort import KEPT_TASKS
from ..log import decode_record
from ..protocol import Channel, Closed, ProtocolError
from ..registry import is_builtin, load_task
from ..types import Evaluation
from .arbiter import Arbiter
from .frames import Alone, Enter, FromJudge, Leave, Order, Report, Rise, Seated, Sit

_END_SECONDS = 10.0
_JUDGE_BYTES = 3 << 30
"""Memory of the host that a judge and its workers may need."""
_MOST_MEASURING = 3
"""Judges of a GPU that hold rings at a time, of up to a 32nd of its memory; sets, copies and a second ring make that four times as much."""
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


class JudgeLost(Exception):
    """A judge's process ended while it judged; whose fault that was is not known."""


class HostLost(Exception):
    """Judging broke off, or did not begin, for want of a host: one was lost, or cannot start a judge. No reply does that."""


class JudgeBroken(Exception):
    """A judge cannot judge on its host; the message says why."""


class Pool(Protocol):
    """Judges somewhere: on this host, or on others."""

    device: str
    """Device kind."""
    local: bool
    """Whether they run on this host."""

    @property
    def judges(self) -> int:
        """How many replies are judged at a time."""

    @property
    def alone_seconds(self) -> float:
        """For how long some judge had its device to itself so far."""

    def submit(self, entry: Entry, alone: bool = False) -> Future[Evaluation]:
        """See `JudgePool.submit`; `HostLost` is another way in which it may end."""

    def take_back(self, future: Future[Evaluation]) -> None:
        """Forget an order."""

    def close(self) -> None:
        """End all judging."""


class PoolClosed(Exception):
    """The pool was closed before an order was judged."""


@dataclasses.dataclass(eq=False)
class _Job:
    order: Order
    future: Future[Evaluation]
    alone: bool = False
    passed: int = 0
    """How many came later and were taken first."""


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
        self._jobs: list[_Job] = []
        self._running: list[_Job] = []
        self._condition = threading.Condition()
        self._closed = False
        self._seats: list[_Seat] = []

    @property
    def judges(self) -> int:
        """How many there are."""
        return self._count

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
            self._jobs.append(_Job(order, future, alone))
            self._condition.notify_all()
        return future

    def _start(self) -> None:
        """Give every seat a judge, the first time."""
        if not self._seats:
            self._seats = [_Seat(self) for _ in range(self._count)]
            for seat in self._seats:
                seat.start()

    def take(self, tasks: Collection[str]) -> _Job | None:
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
        return next((place for place, job in enumerate(within) if job.order.entry.task in tasks), 0)

    def done(self, job: _Job) -> None:
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
            seat.join(_END_SECONDS)
        self._seats, self._closed = [], False


class _Seat(threading.Thread):
    """One judge at a time, and the thread that serves it."""

    _numbers = itertools.count(1)

    def __init__(self, pool: JudgePool) -> None:
        super().__init__(name=f"judge-{next(self._numbers)}", daemon=True)
        self._pool = pool
        self._judge: _Judge | None = None
        self._job: _Job | None = None
        self._tasks: deque[str] = deque(maxlen=KEPT_TASKS)
        self._unwanted: Future[Evaluation] | None = None
        """What was taken back last."""
        self._ending = False

    @property
    def pid(self) -> int | None:
        """Process id of the judge, if there is one."""
        return self._judge.pid if self._judge else None

    @property
    def order(self) -> Order | None:
        """What is being judged."""
        return self._job.order if self._job else None

    def run(self) -> None:
        """Give a judge one job after the other; replace it if it dies."""
        with contextlib.suppress(HostLost):  # ahead of the first job, which meets it again
            self._open()
        while (job := self._pool.take(self._tasks)) is not None:
            try:
                if job.future.set_running_or_notify_cancel():
                    self._judge_one(job)
            finally:
                self._pool.done(job)
        self._drop()

    def _judge_one(self, job: _Job) -> None:
        self._job = job
        self._note(job.order.entry.task)
        try:
            job.future.set_result(self._evaluation(job))
        except Exception as error:
            job.future.set_exception(error)
        finally:
            self._job = None

    def _note(self, task: str) -> None:
        """Its baselines are at hand from now on, for as long as the judge keeps them."""
        with contextlib.suppress(ValueError):
            self._tasks.remove(task)
        self._tasks.append(task)

    def _evaluation(self, job: _Job) -> Evaluation:
        """What became of a job.

        Raises:
            JudgeLost, HostLost, JudgeBroken, PoolClosed: As they say.
        """
        judge = self._open()
        while True:
            try:
                report = self._order(judge, job.order)
            except (Closed, TimeoutError, ProtocolError):
                self._drop()
                if self._ending:
                    raise PoolClosed("the pool was closed while this was judged") from None
                raise JudgeLost("the judge's own process ended while it judged this reply") from None
            if report.record:
                return decode_record(report.record)
            if report.error:
                raise JudgeBroken(report.error)
            if self._unwanted is job.future:
                raise PoolClosed("it was taken back")
            # The interrupt was meant for the job before this one.

    def _open(self) -> _Judge:
        if self._judge is None:
            try:
                self._judge = _Judge(self._pool)
            except OSError as error:
                raise HostLost(f"no judge could be started: {error}") from error
            self._pool.arbiter.join(self._judge)
        return self._judge

    def _order(self, judge: _Judge, order: Order) -> Report:
        """Have an order judged, and let the judge have the device when it asks."""
        arbiter = self._pool.arbiter
        judge.channel.send(order)
        while True:
            frame, _ = judge.channel.receive(FromJudge)
            match frame:
                case Enter():
                    arbiter.enter(judge)
                    judge.channel.send(Alone())
                case Leave():
                    arbiter.leave(judge)
                case Sit():
                    arbiter.sit(judge)
                    judge.channel.send(Seated())
                case Rise():
                    arbiter.rise(judge)
                case Report():
                    return frame

    def interrupt(self, future: Future[Evaluation]) -> None:
        """Take an order back from the judge, if it is at work on it."""
        if self._job is not None and self._job.future is future and self._judge is not None:
            self._unwanted = future
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._judge.pid, signal.SIGINT)

    def _drop(self) -> None:
        if self._judge is not None:
            judge, self._judge = self._judge, None
            self._pool.arbiter.part(judge)
            judge.close()

    def stop(self) -> None:
        """End what is being judged. Stop all seats before one of them is waited for: their threads wait for each other's judges."""
        self._ending = True
        if self._job is not None and self._judge is not None:
            self._judge.kill()


class _Judge:
    """A judge's process, as its pool sees it."""

    def __init__(self, pool: JudgePool) -> None:
        with contextlib.ExitStack() as given, contextlib.ExitStack() as undo:
            page = fixed_file("stops", mmap.PAGESIZE)
            given.callback(os.close, page)
            self.stops = Stops(page)
            undo.callback(self.stops.close)
            mine, theirs = socket.socketpair()
            given.callback(theirs.close)
            undo.callback(mine.close)
            self._folder = Path(tempfile.mkdtemp(prefix="fastkernels-judge-"))
            undo.callback(shutil.rmtree, self._folder, ignore_errors=True)
            self._folder.chmod(0o711)  # workers have other user ids and their folders in it
            arguments = [str(theirs.fileno()), str(page), pool.device, "1" if pool.strict else "0", str(os.getpid())]
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "fastkernels_env.pool", *arguments],
                pass_fds=[theirs.fileno(), page], start_new_session=True, stdin=subprocess.DEVNULL,
                env=os.environ | {"TMPDIR": str(self._folder)},
            )
            undo.pop_all()
        self.pid = self._process.pid
        self.channel = Channel(mine)

    def kill(self) -> None:
        """End it at once, with all that it started: those follow it."""
        self._process.kill()

    def close(self) -> None:
        """Let it end, or end it."""
        self.channel.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
        self.stops.close()
        shutil.rmtree(self._folder, ignore_errors=True)  # what a judge that was killed left there
