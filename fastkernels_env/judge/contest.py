"""The profile stage: the submission against the task's baselines on every workload, and what follows from the times."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..types import Artifact, Regime, Speedup, Timing
from .attempts import Attempts, Tampering
from .cases import derive_seed, make_case
from .errors import JudgeFault
from .scope import CALL_SECONDS, Scope
from .score import speedup
from .sets import InputSets
from .timing import Measurement, draw_sets
from .verify import case_layout, run_case

if TYPE_CHECKING:
    from .baselines import Contestant
    from .session import WorkerSession

SMALL_GAIN = 1.6
"""On a CPU a process may be faster or slower than another one of the same code, for as long as it lives: by up to a third was seen, and by
half where a thread happened to win a race against the clock. Gains below this factor are measured again in fresh processes of both sides.
"""


class Contest:
    """Timings of one evaluation.

    Args:
        scope: The evaluation.

    Attributes:
        timings: One per workload.
        speedup: Over all of them; None until they are all measured.
        setup_us: Time of `prepare` and `plan` per call, by side.
        own_kernel_share: Share of device time in the submission's own kernels, as its own process reports it.
        tampered: Evidence of cheating, if any.
    """

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.timings: list[Timing] = []
        self.speedup: Speedup | None = None
        self.setup_us: dict[str, float] = {}
        self.own_kernel_share: float | None = None
        self.tampered = ""
        self._sets: dict[str, InputSets] = {}

    def draw_ahead(self) -> None:
        """Draw the first workload's input sets while the submission is still being built, where that takes no memory from others."""
        if self.scope.judge.turnstile.shared and self.scope.kind == "cuda":
            return
        scope, first = self.scope, self.scope.public_workloads()[0]
        plan = scope.effort.plan(scope.kind)
        self._sets[first.name] = draw_sets(scope.judge, scope.task, first, derive_seed(scope.seed, "ring"), plan)

    def run(self, session: WorkerSession, artifact: Artifact, kernels: tuple[str, ...]) -> None:
        """Measure every workload.

        Raises:
            TimedFailure: A timed output was wrong.
            WorkerError: The submission raised, died or hung.
            JudgeFault: No baseline is left, or the device is not quiet.
        """
        self.scope.judge.spare.settle()
        with self.scope.judge.turnstile.seat():
            try:
                self._run(session, artifact, kernels)
            finally:
                self.scope.judge.device.trim()

    def _run(self, session: WorkerSession, artifact: Artifact, kernels: tuple[str, ...]) -> None:
        scope = self.scope
        contestants = scope.judge.contestants(scope.task, scope.effort.compiled)
        attempts = Attempts(scope, session, artifact)
        try:
            results = [self._measure(attempts, contestants)]
            gain = self._compare(results[0])
            if scope.kind == "cpu" and gain.low > 1 and gain.estimate < SMALL_GAIN:
                attempts.renew()
                results.append(self._measure(attempts, self._renewed(contestants, results[0])))
            measured = min(results, key=lambda result: self._compare(result).low)
            self.timings = [m.timing for m in measured]
            self.setup_us = {name: us for m in measured for name, us in m.setup_us.items()}
            self._pass_checks(measured)
            self._check_floor()
            self.speedup = self._compare(measured)
            if scope.effort.trace and scope.kind == "cuda":
                self.own_kernel_share = self._trace(attempts.session, kernels)
        except Tampering as evidence:
            self.tampered = evidence.detail
            scope.checks.failed(evidence.check, evidence.detail)
        finally:
            attempts.close()

    def _measure(self, attempts: Attempts, contestants: dict[str, Contestant]) -> list[Measurement]:
        """Every workload once; what was measured before one that fails is kept in `timings`."""
        measured: list[Measurement] = []
        for workload in self.scope.public_workloads():
            measured.append(attempts.measure(workload, contestants, self._sets.pop(workload.name, None)))
            self.timings = [m.timing for m in measured]
        return measured

    def _compare(self, measured: list[Measurement]) -> Speedup:
        plan = self.scope.effort.plan(self.scope.kind)
        return speedup([m.samples for m in measured], plan.noise_floor, plan.workload_floor)

    def _renewed(self, contestants: dict[str, Contestant], measured: list[Measurement]) -> dict[str, Contestant]:
        """The contestants, with fresh processes for those that were the best baseline of a workload.

        Raises:
            JudgeFault: One of them does not come up again: nobody goes on without the best opponent.
        """
        scope = self.scope
        for name in dict.fromkeys(m.timing.best_baseline for m in measured if m.timing.best_baseline in contestants):
            again = scope.judge.baselines.restart(scope.task, contestants[name].baseline)
            if again is None:
                raise JudgeFault(f"baseline {name!r} did not start again, to be measured a second time")
            contestants[name] = again
        return contestants

    def _pass_checks(self, measured: list[Measurement]) -> None:
        checks = self.scope.checks
        checks.passed("timed_outputs")
        checks.passed("clock", "no output changed after the worker had said that it was done")
        checks.passed("quiet_device")
        slowed = [f"{m.timing.workload}: {m.sealing.describe()}" for m in measured if m.sealing.added_us]
        checks.passed("sealed_calls", f"the slower of the two scores on {'; '.join(slowed)}" if slowed else "")

    def _trace(self, session: WorkerSession, kernels: tuple[str, ...]) -> float | None:
        """Share of device time in the submission's own kernels, as its own process reports it."""
        scope, device = self.scope, self.scope.judge.device
        workload = scope.task.smoke_workload(scope.kind)
        case = make_case(scope.task, workload, Regime.REALISTIC, derive_seed(scope.seed, "trace"), device.torch_device)
        arena = device.allocate(case_layout(scope.task, case).size, scope.task.ranks)
        try:
            session.attach(arena)
            run_case(session, arena, device, scope.task, case, CALL_SECONDS)
            spent = session.trace([0, 1], CALL_SECONDS)
            session.detach()
        finally:
            arena.close()
        total = sum(spent.values())
        own = sum(us for name, us in spent.items() if any(kernel in name for kernel in kernels))
        return own / total if total > 0 else None

    def _check_floor(self) -> None:
        checks = self.scope.checks
        if self.scope.judge.device.published_peaks() is None:
            checks.waive("void_floor", "no published peaks are known for this device")
            return
        for timing in self.timings:
            if timing.floor_us is not None and timing.candidate_us < timing.floor_us:
                detail = f"{timing.candidate_us:.3g} us on {timing.workload}: its bytes and FLOPs alone need {timing.floor_us:.3g} us"
                checks.failed("void_floor", detail)
                self.tampered = detail
        checks.passed("void_floor")
