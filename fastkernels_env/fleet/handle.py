"""What the pool knows of its actors."""

from __future__ import annotations

import time
from concurrent.futures import Future
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ..types import Evaluation
from .actor import Facts, Judges
from .job import Job
from .nodes import nodes, units

_START_SECONDS = 60.0


class Kind(NamedTuple):
    """What all actors of a fleet have in common.

    Attributes:
        device: ``cpu`` or ``cuda``.
        judges: As for `Evaluator`.
        cores: Cores of an actor; of one with several GPUs, for each of them.
        strict: As for `Evaluator`.
    """

    device: str
    judges: int | str
    cores: int
    strict: bool

    @property
    def width(self) -> int:
        """How many ranks find room on an actor."""
        return 1 if self.device == "cuda" else self.cores

    @property
    def unit(self) -> str:
        """What ranks take one of each, as Ray names it."""
        return "GPU" if self.device == "cuda" else "CPU"

    def most(self) -> int:
        """How many ordinary actors find room in the cluster, if nobody else uses it."""
        if self.device == "cuda":
            return sum(units(host, "GPU") for host in nodes())
        return sum(units(host, "CPU") // self.cores for host in nodes())

    def start(self, ranks: int = 0, node: str = "") -> Actor:
        """Start an actor.

        Args:
            ranks: For orders of so many ranks; 0: an ordinary one.
            node: Id of the node on which it must run; empty: wherever there is room.
        """
        wide = max(ranks, 1)
        cores = self.cores * wide if self.device == "cuda" else max(self.cores, wide)
        gpus = {"num_gpus": wide} if self.device == "cuda" else {}
        variables = {} if self.device == "cuda" else {"CUDA_VISIBLE_DEVICES": ""}  # else an actor without a GPU sees all of them
        place = {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)} if node else {}
        judges = 1 if ranks else self.judges  # several would take turns on all of its GPUs
        handle = ray.remote(Judges).options(
            num_cpus=cores, max_restarts=-1, max_task_retries=0, max_concurrency=64, runtime_env={"env_vars": variables}, **gpus, **place,
        ).remote(self.device, judges, cores, self.strict)
        return Actor(handle, max(ranks, self.width), leased=bool(ranks))


class Actor:
    """A handle, and what is known about what is behind it.

    Args:
        handle: Ray's.
        width: How many ranks find room there.
        leased: Whether it is there for orders of several ranks only.
    """

    def __init__(self, handle: Any, width: int, leased: bool) -> None:
        self.handle, self.width, self.leased = handle, width, leased
        self.facts: Facts | None = None
        """None while it does not answer."""
        self.unsure: list[tuple[Job, str, float]] = []
        """Jobs whose connection broke: the incarnation that had them, and until when it may come back."""
        self.jobs: dict[str, Future[Evaluation]] = {}
        """What it was given and has not answered, by request."""
        self.incarnation = ""
        self.restarts = -1
        self.ill = False
        """Whether its host is not in order."""
        self.leaving = False
        """Whether it gets nothing more, since its room is wanted."""
        self.asked = 0.0
        """When `facts` came."""
        self._began = time.monotonic()

    @property
    def free(self) -> int:
        """How many more orders it takes."""
        return self.facts.judges - len(self.jobs) if self.facts and not self.leaving else 0

    @property
    def starting(self) -> bool:
        """Whether it is new and will answer soon. One that has waited long has no host."""
        return self.facts is None and not self.incarnation and time.monotonic() - self._began < _START_SECONDS

    @property
    def idle(self) -> bool:
        """Whether nothing that it was given is unanswered."""
        return not self.jobs and not self.unsure
