"""What runs on a cluster's hosts: one actor per GPU, or per some cores, with the judges of that device."""

from __future__ import annotations

import fcntl
import os
import tempfile
import threading
import uuid
from collections import OrderedDict
from concurrent.futures import Future
from pathlib import Path

import msgspec
import ray

from ..device import open_device
from ..evaluator import Evaluator
from ..log import encode_record
from ..pool.frames import Order
from ..types import DeviceInfo, Evaluation, Outcome
from .builds import adopt
from .health import Health
from .travel import unpack

_REMEMBERED = 128
"""Answers that are kept for a caller who asks again."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What an actor is.

    Attributes:
        incarnation: Another one after every restart.
        host: Name of its host.
        device: What it judges on.
        judges: How many replies at a time.
        alone_seconds: For how long one judge had the device to itself.
        node: Id of its node in the cluster.
    """

    incarnation: str
    host: str
    device: DeviceInfo
    judges: int
    alone_seconds: float
    node: str = ""


class Judges:
    """The judges of one device, as an actor. Its methods may run at the same time.

    Args:
        device: ``cpu`` or ``cuda``.
        judges: As for `Evaluator`.
        cores: Cores of the host that this actor may use.
        strict: As for `Evaluator`.
    """

    def __init__(self, device: str, judges: int | str, cores: int, strict: bool) -> None:
        self._cores = _take_cores(cores) if device == "cpu" else None
        self._evaluator = Evaluator(device, strict=strict, judges=judges)
        self._device = open_device(device).info()
        self._incarnation = uuid.uuid4().hex
        self._lock = threading.Lock()
        self._asked: OrderedDict[str, Future[Evaluation]] = OrderedDict()
        self._health = Health(self._evaluator)

    def facts(self) -> bytes:
        """`Facts`, as JSON."""
        return msgspec.json.encode(Facts(
            incarnation=self._incarnation, host=os.uname().nodename, device=self._device, judges=self._evaluator.judges,
            alone_seconds=self._evaluator.alone_seconds, node=ray.get_runtime_context().get_node_id(),
        ))  # fmt: skip

    def judge(self, request: str, order: bytes, task: bytes, built: bytes = b"") -> bytes:
        """Judge a reply, once however often it is asked for.

        Args:
            request: Id of the request.
            order: An `Order`, as msgpack.
            task: Archive of a task's folder that this host may not have; empty for the library's own.
            built: What another host compiled of the reply, a `builds.Made` as msgpack; or nothing.

        Returns:
            The record, as a line of a log.

        Raises:
            HostLost: This host is not in order, so that another one must judge.
        """
        self._health.check_now_and_then()
        with self._lock:
            future = self._asked.get(request)
            if future is None:
                future = self._asked[request] = self._submit(order, task, built)
                while len(self._asked) > _REMEMBERED:
                    self._asked.popitem(last=False)
        evaluation = future.result()
        if evaluation.outcome is Outcome.FAULT:
            self._health.check()  # whose fault it is
        return encode_record(evaluation)

    def take_back(self, request: str) -> None:
        """Stop judging a reply."""
        with self._lock:
            future = self._asked.pop(request, None)
        if future is not None:
            future.cancel()

    def _submit(self, order: bytes, task: bytes, built: bytes) -> Future[Evaluation]:
        asked = msgspec.msgpack.decode(order, type=Order)
        unpack(asked.entry.task, task)
        if built:
            adopt(order, built, self._device.kind)
        return self._evaluator.submit(**asked.arguments())


def _take_cores(count: int) -> int | None:
    """Bind this process to a group of `count` cores that no other actor of the host has; the descriptor that holds them.

    Where more actors than groups are on a host, the last ones stay unbound.
    """
    cores = sorted(os.sched_getaffinity(0))
    folder = Path(tempfile.gettempdir()) / f"fastkernels-cores-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for first in range(0, len(cores) - count + 1, max(count, 1)):
        descriptor = os.open(folder / f"{count}-{first}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            continue
        os.sched_setaffinity(0, cores[first : first + count])
        return descriptor
    return None
