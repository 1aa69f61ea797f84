"""Native code is compiled on cores that no judge has, such as those of hosts without a GPU, and judged elsewhere.

What comes back is a build under the key that the host which judges computes for itself. Where compilers, flags or versions differ the
keys do, and the reply is compiled where it is judged, as it is when no such core is free.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import ray

from ..build import Build, BuildError, precompile_prelude
from ..builds import KeptBuilds, key_of
from ..device import DeviceError
from ..pool.frames import Order
from ..registry import load_task
from ..submission import RejectedError, extract
from ..types import Language, Submission
from .job import Job
from .travel import unpack

_PATIENCE = 60.0
"""Seconds after which a reply is compiled where it is judged: its build may wait for a core that somebody else has taken."""


class Made(msgspec.Struct, frozen=True):
    """A build.

    Attributes:
        key: What it was made from and with; see `builds.key_of`.
        artifact: The library.
        output: What the compiler printed.
    """

    key: str
    artifact: bytes
    output: bytes


class Builds:
    """Builds under way on cores that no judge has. Its methods are called with the pool's lock held.

    Args:
        device: Device kind of the pool.
        strict: As for `Evaluator`.

    Attributes:
        made: How many were made.
    """

    def __init__(self, device: str, strict: bool) -> None:
        self.made = 0
        self._device, self._strict = device, strict
        self._room = 0
        self._running: dict[str, _Running] = {}

    def look(self, free: float) -> None:
        """So many cores of the cluster are free: neither a judge has them nor a build."""
        self._room = int(free) + len(self._running)

    def hurry(self) -> None:
        """Wait no longer for builds that take long."""
        late = [running for running in self._running.values() if time.monotonic() - running.began > _PATIENCE]
        for running in late:
            self.take_back(running.job)
            running.job.building = False

    def begin(self, job: Job, then: Callable[[Future[bytes]], None]) -> None:
        """Build a reply's code if it is native and a core is free.

        Args:
            job: It is `building` until the build has ended.
            then: Called by another thread; has to call `end`.
        """
        if len(self._running) >= self._room or not _is_native(_submission(job.order, self._device)):
            return
        job.building = True
        reference = _build.remote(job.order, job.task, self._device, self._strict)
        self._running[job.id] = _Running(job, reference, time.monotonic())
        reference.future().add_done_callback(then)

    def end(self, job: Job, answer: Future[bytes]) -> None:
        """A build has ended. Where nothing was made, since a host was lost or the code does not compile, it is compiled again there."""
        self._running.pop(job.id, None)
        job.building = False
        with contextlib.suppress(Exception):
            job.built = answer.result()
        self.made += bool(job.built)

    def take_back(self, job: Job) -> None:
        """Nobody wants it any more."""
        if job.building:
            ray.cancel(self._running[job.id].reference)  # an interrupt, so that its compiler ends too


class _Running(NamedTuple):
    job: Job
    reference: Any
    began: float


def adopt(order: bytes, built: bytes, device: str) -> bool:
    """Keep a build of another host if this host would make the same one; whether it would. The order's task is registered here."""
    submission, made = _submission(order, device), msgspec.msgpack.decode(built, type=Made)
    if submission is None or key_of(submission, link=True) != made.key:
        return False
    return KeptBuilds().adopt(made.key, made.artifact, made.output)


@ray.remote(num_cpus=1, max_retries=0, scheduling_strategy="SPREAD")
def _build(order: bytes, task: bytes, device: str, strict: bool) -> bytes:
    """A `Made`; nothing where the code does not compile, a compiler is missing, or is not held as it should be."""
    unpack(msgspec.msgpack.decode(order, type=Order).entry.task, task)
    submission = _submission(order, device)
    assert submission is not None
    if submission.language is Language.CPP:
        precompile_prelude()
    with contextlib.suppress(BuildError, DeviceError, OSError), Build(submission, strict=strict) as build:
        artifact = Path(build.result().path)
        if build.report is not None and not build.report.missing:
            output = artifact.with_name("output").read_bytes()
            return msgspec.msgpack.encode(Made(key_of(submission, link=True), artifact.read_bytes(), output))
    return b""


def _submission(order: bytes, device: str) -> Submission | None:
    """The code of an order; None if there is none."""
    asked = msgspec.msgpack.decode(order, type=Order).arguments()
    try:
        return extract(asked["text"], load_task(asked["task"]), device)
    except RejectedError:
        return None


def _is_native(submission: Submission | None) -> bool:
    return submission is not None and submission.language is not Language.PYTHON
