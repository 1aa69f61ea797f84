"""Measure a submission; what looks like cheating and could be chance must come back in a fresh process.

What looks wrong is put to the baselines: an entry that none of them answers is our own mistake, and one on which they err as much is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..task import Workload
from ..types import Artifact, Status
from .answers import TimedFailure
from .cases import derive_seed
from .errors import JudgeFault
from .quiet import NotQuiet
from .scope import LOAD_SECONDS, Scope
from .sets import InputSets
from .timing import Entrant, Measurement, draw_sets, measure
from .verify import first_failure

if TYPE_CHECKING:
    from .baselines import Contestant
    from .judge import Judge
    from .session import WorkerSession


class Tampering(Exception):
    """Evidence of cheating that was seen twice, under the check that it fails."""

    def __init__(self, check: str, detail: str) -> None:
        super().__init__(detail)
        self.check, self.detail = check, detail


class Suspicion(NamedTuple):
    """Evidence that was seen once."""

    check: str
    detail: str


class Attempts:
    """The submission's worker during the profile stage, replaced where a suspicion asks for it.

    Args:
        scope: The evaluation.
        session: A worker that has the artefact loaded and nothing attached; its owner closes it.
        artifact: What a fresh worker loads.
    """

    def __init__(self, scope: Scope, session: WorkerSession, artifact: Artifact) -> None:
        self.session = session
        self._scope, self._artifact = scope, artifact
        self._fresh: list[WorkerSession] = []

    def measure(self, workload: Workload, contestants: dict[str, Contestant], sets: InputSets | None) -> Measurement:
        """Time the submission on one workload; a second time in a fresh process if the first raised a suspicion, or calls for one.

        Without a second suspicion of the same kind the attempt counts in which the submission did worse; the second one, if only the first
        showed an excess that chance may explain.

        Raises:
            Tampering: The suspicion came back.
            JudgeFault: No baseline is left, or the device is not quiet.
            WorkerError: The submission raised, died or hung.
            TimedFailure: A timed output was wrong.
        """
        scope = self._scope
        sets = sets or draw_sets(scope.judge, scope.task, workload, derive_seed(scope.seed, "ring"), scope.effort.plan(scope.kind))
        first, doubt = self._attempt(workload, contestants, sets)
        by_chance = first is not None and excess_by_chance(scope.judge, first)
        if doubt is None and first is not None and not by_chance:
            return first
        self.renew()
        second, again = self._attempt(workload, contestants, sets)
        if doubt and again and doubt.check == again.check:
            raise Tampering(again.check, f"on {workload.name}: {again.detail}; seen again in a fresh process")
        if by_chance and second is not None and again is None and not excess_by_chance(scope.judge, second):
            return second
        results = [result for result in (first, second) if result is not None]
        if not results:
            raise JudgeFault(f"{workload.name} could not be measured: {doubt}, then {again}")
        return max(results, key=_standing)

    def _attempt(
        self, workload: Workload, contestants: dict[str, Contestant], sets: InputSets
    ) -> tuple[Measurement | None, Suspicion | None]:
        scope = self._scope
        # What a capture leaves out, a replay does not do: that is no lie.
        no_graph = "the check cuda_graph failed" if scope.checks.has("cuda_graph", Status.FAILED) else ""
        entrant = Entrant("candidate", self.session, self._artifact.has_plan, verified=True, no_graph=no_graph)
        seed, plan = derive_seed(scope.seed, "ring"), scope.effort.plan(scope.kind)
        try:
            try:
                measured = measure(scope.judge, scope.task, workload, seed, plan, entrant, contestants, sets)
            except TimedFailure as failure:
                entrant = entrant._replace(limits=self._second_opinion(failure))
                measured = measure(scope.judge, scope.task, workload, seed, plan, entrant, contestants, sets)
        except NotQuiet as busy:
            self.session.close()
            self._demand_quiet()
            return None, Suspicion("quiet_device", f"{busy}, and no longer once the submission has ended")
        if measured.sealing.suspicious:
            return measured, Suspicion("sealed_calls", f"sealed calls are {measured.sealing.describe()}")
        return measured, None

    def _second_opinion(self, failure: TimedFailure) -> dict[str, float]:
        """Relative RMS error of the baselines on an entry, by output, where it excuses what the submission answered to it.

        Raises:
            TimedFailure: It does not.
            JudgeFault: No baseline answers the entry either.
        """
        if failure.case is None:
            raise failure
        errors = self._scope.judge.baselines.errors(self._scope.task, failure.case)
        if not errors or failure.tampered or first_failure(self._scope.task, failure.case, failure.outputs, errors)[0]:
            raise failure
        return errors

    def _demand_quiet(self) -> None:
        try:
            with self._scope.judge.turnstile.alone():
                self._scope.judge.canary.check()
        except NotQuiet as busy:
            raise JudgeFault(f"the device is not quiet: {busy}, without any submission too") from None

    def renew(self) -> None:
        """Load the artefact into a new process."""
        self.session.close()
        self.session = self._scope.judge.host.spawn(self._scope.task)
        self._fresh.append(self.session)
        self.session.load(self._scope.load_request(self._artifact), LOAD_SECONDS)

    def close(self) -> None:
        """End the workers that were started here."""
        for session in self._fresh:
            session.close()


def excess_by_chance(judge: Judge, measured: Measurement) -> bool:
    """Whether sealed calls took longer than calls in a row by what two processes on a GPU sometimes differ by, for as long as they live."""
    return judge.device.seals_runs and measured.sealing.added_us > 0


def _standing(measured: Measurement) -> float:
    """Time of the candidate in times of its best baseline."""
    timing = measured.timing
    return timing.candidate_us / timing.baselines[timing.best_baseline]
