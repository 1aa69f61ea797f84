"""Hands orders to the actors of a cluster, and takes them elsewhere when hosts are lost."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from collections import deque
from concurrent.futures import Future

import msgspec
import ray
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayActorError, RayError, RayTaskError

from ..device import DeviceError
from ..journal import Entry
from ..log import decode_record
from ..pool.base import HostLost, PoolClosed
from ..pool.frames import Order
from ..pool.pool import count_judges
from ..registry import is_builtin, load_task
from ..types import Evaluation
from .actor import Facts
from .builds import Builds
from .handle import Actor, Kind
from .job import Job
from .lease import Leases
from .metrics import Metrics
from .nodes import cores_per_gpu, nodes
from .travel import pack

_START_SECONDS = 120.0
_ROOM_SECONDS = 30.0
_LOOK_SECONDS = 2.0
_PATIENCE = 20.0
"""Seconds for which a process that cannot be reached may still come back with what it was judging."""
_LOST = "the host that judged this reply was lost, or the connection to it"


class RayPool:
    """Judges on a Ray cluster: one actor per GPU, or per `cores` cores of hosts without one. Thread-safe.

    Args:
        address: Of the cluster, as `ray.init` takes it; None: that of ``RAY_ADDRESS``, or a cluster on this host alone.
        device: ``auto``, ``cpu`` or ``cuda``.
        cores: Cores of an actor on a CPU host.
        judges: Judges of an actor, as for `Evaluator`.
        strict: As for `Evaluator`.

    Raises:
        DeviceError: The cluster has no such device.
        ValueError: No number of judges or cores.
    """

    local = False

    def __init__(self, address: str | None, device: str, cores: int, judges: int | str, strict: bool) -> None:
        count_judges(judges, "cpu")  # on a host it would be refused again and again
        if cores < 1:
            raise ValueError(f"expected cores to be at least 1, got {cores!r}")
        if not ray.is_initialized():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        total = ray.cluster_resources()  # type: ignore[no-untyped-call]
        self.device = ("cuda" if total.get("GPU") else "cpu") if device == "auto" else device
        if self.device == "cuda" and not total.get("GPU"):
            raise DeviceError("expected a cluster with GPUs, this one has none; ask for device='cpu'")
        share = cores if self.device == "cpu" else cores_per_gpu(nodes())
        self._kind = Kind(self.device, judges, share, strict)
        self._leases = Leases(self._kind)
        self._builds = Builds(self.device, strict)
        self._jobs: deque[Job] = deque()
        self._actors: list[Actor] = []
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._metrics = Metrics()
        if total.get("CPU", 0) < share:
            raise DeviceError(f"expected a cluster with {share} cores for a judge, it has {total.get('CPU', 0):g}")
        until = time.monotonic() + _ROOM_SECONDS
        self._grow()
        while not self._actors:  # what another fleet had is free a moment after it was closed
            if time.monotonic() > until:
                raise DeviceError(f"expected room for a judge in the cluster ({share} cores), everything is taken")
            time.sleep(0.1)
            self._grow()
        self._watch = threading.Thread(target=self._watch_actors, name="fleet", daemon=True)
        self._watch.start()

    @property
    def judges(self) -> int:
        """How many replies are judged at a time, by actors that answer."""
        with self._lock:
            return max(sum(actor.facts.judges for actor in self._actors if actor.facts), len(self._actors), 1)

    @property
    def builds(self) -> int:
        """How many replies were compiled on cores that no judge has."""
        return self._builds.made

    @property
    def alone_seconds(self) -> float:
        """Sum over the actors, as they last said."""
        with self._lock:
            return sum(actor.facts.alone_seconds for actor in self._actors if actor.facts)

    def facts(self) -> list[Facts]:
        """What the actors that answer are."""
        with self._lock:
            return [actor.facts for actor in self._actors if actor.facts]

    def wait(self, actors: int, seconds: float = _START_SECONDS) -> None:
        """Wait until so many actors answer.

        Raises:
            TimeoutError: They do not.
        """
        waiter = threading.Event()
        for _ in range(int(seconds / 0.1)):
            if len(self.facts()) >= actors:
                return
            waiter.wait(0.1)
        raise TimeoutError(f"expected {actors} judges of the cluster to answer within {seconds:g} s, {len(self.facts())} did")

    def submit(self, entry: Entry, alone: bool = False) -> Future[Evaluation]:
        """See `Pool.submit`; `alone` is for the actors, which see to it themselves."""
        if self._closed.is_set():
            raise PoolClosed("the fleet is closed")
        task = load_task(entry.task)
        job = Job(msgspec.msgpack.encode(Order.of(entry)), b"" if is_builtin(task.folder) else pack(task.folder), task.ranks)
        with self._lock:
            self._builds.begin(job, functools.partial(self._built, job))
            self._jobs.append(job)
        self._pump()
        return job.future

    def _built(self, job: Job, answer: Future[bytes]) -> None:
        with self._lock:
            self._builds.end(job, answer)
        self._metrics.built(bool(job.built))
        self._pump()

    def take_back(self, future: Future[Evaluation]) -> None:
        """See `Pool.take_back`."""
        with self._lock:
            for job in [job for job in self._jobs if job.future is future]:
                self._jobs.remove(job)
                self._builds.take_back(job)
            for actor in self._actors:
                for request in [request for request, known in actor.jobs.items() if known is future]:
                    actor.handle.take_back.remote(request)
        future.cancel()

    def close(self) -> None:
        """End the actors. The cluster stays."""
        self._closed.set()
        with self._lock:
            left, self._jobs = [*self._jobs], deque()
            actors, self._actors = self._actors, []
            left += [job for actor in actors for job, _, _ in actor.unsure]
        for actor in actors:
            with contextlib.suppress(RayError):
                ray.kill(actor.handle)
        for job in left:
            with self._lock:
                self._builds.take_back(job)
            _fail(job.future, PoolClosed("the fleet was closed before this was judged"))
        self._watch.join(2 * _LOOK_SECONDS)

    def _grow(self) -> None:
        """Start actors where the cluster has room for them: at first, and when hosts have joined. What is left over may build."""
        free = ray.available_resources()  # type: ignore[no-untyped-call]
        room = free.get("GPU", 0) if self.device == "cuda" else free.get("CPU", 0) // self._kind.cores
        room = max(int(min(room, self._kind.most() - len(self._actors))), 0)
        self._actors += [self._kind.start() for _ in range(room)]
        self._builds.look(free.get("CPU", 0) - room * self._kind.cores)

    def _watch_actors(self) -> None:
        """Ask actors that do not answer until they do, and look for hosts that have joined."""
        while not self._closed.is_set():
            with self._lock:
                actors = list(self._actors)
            for actor in actors:
                if actor.ill:
                    self._replace(actor)
                self._ask(actor)
                self._reconnect(actor)
            self._pump()
            with self._lock, contextlib.suppress(RayError):
                self._leases.tend(self._jobs, self._actors)
                waiting = any(actor.facts is None for actor in self._actors)
                if not waiting and not self._leases.pending and not self._closed.is_set():
                    self._grow()
                self._builds.hurry()
                self._metrics.queue(len(self._jobs), sum(len(actor.jobs) for actor in self._actors))
            self._closed.wait(_LOOK_SECONDS)

    def _ask(self, actor: Actor) -> None:
        try:
            facts = msgspec.json.decode(ray.get(actor.handle.facts.remote(), timeout=_LOOK_SECONDS), type=Facts)
        except (RayError, GetTimeoutError):
            return  # it starts, or starts again; what it had in hand fails by itself
        with self._lock:
            if actor.incarnation != facts.incarnation:
                actor.restarts += 1
                self._metrics.restarted(actor.restarts > 0)
            elif actor.facts is not None:
                self._metrics.alone(facts, facts.alone_seconds - actor.facts.alone_seconds, time.monotonic() - actor.asked)
            actor.facts, actor.incarnation, actor.asked = facts, facts.incarnation, time.monotonic()

    def _pump(self) -> None:
        """Give waiting orders to actors that have room, to the emptiest first; those of several ranks to an actor that is leased."""
        with self._lock:
            for job in [job for job in self._jobs if not job.building]:
                if self._closed.is_set() or not any(actor.free > 0 for actor in self._actors):
                    return
                actor = self._emptiest(leased=self._leases.wide(job) and self._leases.possible(job), ranks=job.ranks)
                if actor is not None:
                    self._jobs.remove(job)
                    if job.future.set_running_or_notify_cancel():
                        self._give(job, actor)

    def _emptiest(self, leased: bool, ranks: int) -> Actor | None:
        """The actor with most room of those that take such orders. Where no host is large enough any is as good: it will say so."""
        able = [actor for actor in self._actors if actor.leased == leased and actor.free > 0 and (actor.width >= ranks or not leased)]
        return max(able, key=lambda actor: actor.free, default=None)

    def _give(self, job: Job, actor: Actor) -> None:
        actor.jobs[job.id] = job.future
        reference = actor.handle.judge.remote(job.id, job.order, job.task, job.built)
        reference.future().add_done_callback(functools.partial(self._answered, job, actor))

    def _reconnect(self, actor: Actor) -> None:
        """Ask the same process once more for what it may still be judging; what another one has not heard of goes elsewhere."""
        with self._lock:
            unsure, actor.unsure = actor.unsure, []
            for job, incarnation, until in unsure:
                if actor.facts is not None and actor.incarnation == incarnation:
                    self._give(job, actor)
                elif actor.facts is not None or time.monotonic() > until:
                    _fail(job.future, HostLost(_LOST))
                else:
                    actor.unsure.append((job, incarnation, until))

    def _answered(self, job: Job, actor: Actor, answer: Future[bytes]) -> None:
        with self._lock:
            actor.jobs.pop(job.id, None)
        try:
            evaluation = decode_record(answer.result())
            self._metrics.judged(evaluation)
            job.future.set_result(evaluation)
        except ActorUnavailableError:
            with self._lock:
                actor.facts = None
                actor.unsure.append((job, actor.incarnation, time.monotonic() + _PATIENCE))
        except RayActorError:
            with self._lock:
                actor.facts = None
            _fail(job.future, PoolClosed("the fleet was closed while this was judged") if self._closed.is_set() else HostLost(_LOST))
        except RayTaskError as error:
            if isinstance(error.cause, HostLost):
                with self._lock:  # it is ended by the thread that watches: this one is Ray's own, which would wait for itself
                    actor.ill, actor.facts = True, None
            _fail(job.future, error.cause if isinstance(error.cause, Exception) else error)
        except Exception as error:  # objects that went with a host among them
            _fail(job.future, HostLost(f"{_LOST}: {type(error).__name__}"))
        finally:
            self._pump()

    def _replace(self, actor: Actor) -> None:
        """Start an actor anew whose host is not in order; what else it had goes elsewhere."""
        with self._lock:
            actor.ill, actor.facts = False, None
        self._metrics.unhealthy()
        with contextlib.suppress(RayError):
            ray.kill(actor.handle, no_restart=False)


def _fail(future: Future[Evaluation], error: BaseException) -> None:
    with contextlib.suppress(Exception):  # it was taken back
        future.set_exception(error)
