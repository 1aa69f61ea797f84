"""What a fleet tells Ray's metrics, from which Prometheus collects it."""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge, Histogram

from .._pooled import ALONE
from ..types import Evaluation
from .actor import Facts

_SECONDS = [0.1, 0.3, 1, 3, 10, 30, 100, 300]


class Metrics:
    """The fleet's counters; names begin with ``fastkernels_``."""

    def __init__(self) -> None:
        self._evaluations = Counter("fastkernels_evaluations", "Evaluations by outcome.", tag_keys=("task", "outcome"))
        self._stages = Histogram("fastkernels_stage_seconds", "Seconds of a stage.", boundaries=_SECONDS, tag_keys=("stage",))
        self._waiting = Gauge("fastkernels_waiting", "Replies that wait for a judge.")
        self._judging = Gauge("fastkernels_judging", "Replies that are being judged.")
        self._restarts = Counter("fastkernels_restarts", "Actors that had to start again.")
        self._quarantines = Counter("fastkernels_quarantines", "Replies that were judged alone, since judges had died over them.")
        self._builds = Counter("fastkernels_builds", "Replies compiled on cores that no judge has.", tag_keys=("made",))
        self._unhealthy = Counter("fastkernels_unhealthy", "Actors that were started again since their health check failed.")
        self._alone = Gauge("fastkernels_alone_share", "Share of the time in which one judge had the device.", tag_keys=("host", "uuid"))

    def judged(self, evaluation: Evaluation) -> None:
        """A verdict came."""
        self._evaluations.inc(tags={"task": evaluation.task, "outcome": evaluation.outcome.value})
        if ALONE in evaluation.faults:
            self._quarantines.inc()
        for stage, seconds in evaluation.seconds.items():
            self._stages.observe(max(seconds, 0.0), tags={"stage": stage})

    def queue(self, waiting: int, judging: int) -> None:
        """How much there is to do."""
        self._waiting.set(waiting)
        self._judging.set(judging)

    def built(self, made: bool) -> None:
        """A reply was compiled on cores that no judge has, or could not be."""
        self._builds.inc(tags={"made": "yes" if made else "no"})

    def unhealthy(self) -> None:
        """An actor's host is not in order."""
        self._unhealthy.inc()

    def alone(self, facts: Facts, spent: float, seconds: float) -> None:
        """A judge of an actor had the device alone for `spent` of the last `seconds`."""
        if seconds > 0:
            self._alone.set(min(max(spent / seconds, 0.0), 1.0), tags={"host": facts.host, "uuid": facts.device.uuid})

    def restarted(self, again: bool) -> None:
        """An actor came up, or came up again."""
        if again:
            self._restarts.inc()
