"""A place in a pool: a thread that gives a judge's process one order after the other, and replaces it if it dies."""

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
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

from ..clock import Stops
from ..device.base import fixed_file
from ..judge.effort import kept_tasks
from ..log import decode_record
from ..protocol import Channel, Closed, ProtocolError
from ..registry import split_name
from ..types import Evaluation
from .base import HostLost, JudgeBroken, JudgeLost, PoolClosed
from .frames import Alone, Enter, FromJudge, Leave, Order, Report, Rise, Seated, Sit

if TYPE_CHECKING:
    from .pool import JudgePool

END_SECONDS = 10.0


@dataclasses.dataclass(eq=False)
class Job:
    """An order, and what comes of it."""

    order: Order
    future: Future[Evaluation]
    alone: bool = False
    passed: int = 0
    """How many came later and were taken first."""


class Seat(threading.Thread):
    """One judge at a time, and the thread that serves it."""

    _numbers = itertools.count(1)

    def __init__(self, pool: JudgePool) -> None:
        super().__init__(name=f"judge-{next(self._numbers)}", daemon=True)
        self._pool = pool
        self._judge: JudgeProcess | None = None
        self._job: Job | None = None
        self._tasks: deque[str] = deque(maxlen=kept_tasks(pool.device, pool.judges > 1))
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

    def _judge_one(self, job: Job) -> None:
        self._job = job
        self._note(split_name(job.order.entry.task)[0])
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

    def _evaluation(self, job: Job) -> Evaluation:
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

    def _open(self) -> JudgeProcess:
        if self._judge is None:
            try:
                self._judge = JudgeProcess(self._pool)
            except OSError as error:
                raise HostLost(f"no judge could be started: {error}") from error
            self._pool.arbiter.join(self._judge)
        return self._judge

    def _order(self, judge: JudgeProcess, order: Order) -> Report:
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


class JudgeProcess:
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
                env=os.environ | {"TMPDIR": str(self._folder)} | pool.environment,
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
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
        self.stops.close()
        shutil.rmtree(self._folder, ignore_errors=True)  # what a judge that was killed left there
