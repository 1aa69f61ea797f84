"""The smoke and verify stages: which cases a submission is run on, and what each of them means for the checks."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch

from ..device import Arena
from ..types import Regime
from .cases import Case, derive_seed, make_case
from .errors import WorkerError
from .scope import CALL_SECONDS, FIRST_CALL_SECONDS, INTERPRETED_SECONDS, Scope
from .verify import CaseResult, case_layout, compare_output, run_case, smoke_failure, verify_case

if TYPE_CHECKING:
    from .session import WorkerSession

_CHECK_OF = {Regime.SKEWED: "skewed_inputs", Regime.EMPTY: "empty_batch"}


class Matrix:
    """The verification cases of one evaluation, drawn and judged.

    Args:
        scope: The evaluation.

    Attributes:
        cases: The smoke case first, then every verification case.
        right: Cases that were right in every respect.
        tried: Cases that count.
        tampered: Evidence of cheating, if any.
    """

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.right = self.tried = 0
        self.tampered = ""
        self.cases = self._draw_cases()
        self._earlier: dict[str, torch.Tensor] = {}

    @property
    def nbytes(self) -> int:
        """Size of an arena that fits every case."""
        return max(case_layout(self.scope.task, case).size for case in self.cases)

    def _draw_cases(self) -> list[Case]:
        scope, task = self.scope, self.scope.task
        public = scope.public_workloads()
        rng = random.Random(derive_seed(scope.seed, "hidden"))
        hidden = task.hidden_workloads(scope.kind, rng, scope.effort.hidden + 1)
        plan = [(task.smoke_workload(scope.kind), Regime.NORMAL), *((w, Regime.REALISTIC) for w in public)]
        plan += [(w, Regime.REALISTIC) for w in hidden[:-1]]
        if Regime.SKEWED in task.regimes:
            largest = max(public, key=lambda workload: workload.sizes.get(task.batch, 0))  # where a skew reaches its extremes
            plan += [(largest, Regime.SKEWED), (hidden[-1], Regime.SKEWED)]
        if Regime.EMPTY in task.regimes:
            plan += [(public[0], Regime.EMPTY)]
        where = scope.judge.device.torch_device
        return [make_case(task, w, r, derive_seed(scope.seed, "case", i), where) for i, (w, r) in enumerate(plan)]

    def smoke(self, session: WorkerSession, arena: Arena) -> bool:
        """Run the smoke case; whether it passed."""
        scope = self.scope
        seconds = INTERPRETED_SECONDS if scope.interpreted else FIRST_CALL_SECONDS
        outputs = run_case(session, arena, scope.judge.device, scope.task, self.cases[0], seconds)
        failure = smoke_failure(scope.task, self.cases[0], outputs)
        if failure:
            scope.checks.failed("smoke", failure)
        else:
            scope.checks.passed("smoke", self.cases[0].describe())
            self._earlier = {name: copies[0] for name, copies in outputs.items()}
        return not failure

    def verify(self, session: WorkerSession, arena: Arena) -> None:
        """Run every verification case and note what it shows."""
        scope = self.scope
        self.tried = len(self.cases) - 1
        for case in self.cases[1:]:
            result = verify_case(session, arena, scope.judge.device, scope.task, case, scope.call_seconds, earlier=self._earlier)
            if result.wrong and result.rms < 0.1:
                result = self._recheck(session, arena, case, result)
            self._note(result)
        verified, public = len(scope.public_workloads()), len(scope.task.workloads(scope.kind))
        if verified < public:
            scope.checks.passed("public_shapes", f"{verified} of {public}: the smoke shape only")
        for regime, name in _CHECK_OF.items():
            if regime not in scope.task.regimes:
                scope.checks.waive(name, "the task has no such structure")

    def _recheck(self, session: WorkerSession, arena: Arena, case: Case, result: CaseResult) -> CaseResult:
        """A small excess of error counts only if a production implementation does better on the same inputs."""
        limits = self._baseline_errors(case)
        if not limits:
            return result
        scope = self.scope
        return verify_case(session, arena, scope.judge.device, scope.task, case, scope.call_seconds, limits, self._earlier)

    def _baseline_errors(self, case: Case) -> dict[str, float]:
        """Relative RMS error of the first uncompiled baseline, by output."""
        judge, task = self.scope.judge, self.scope.task
        for name, contestant in list(judge.baselines.contestants(task, compiled=False).items()):
            if contestant.baseline.compile:
                continue
            arena = judge.device.allocate(case_layout(task, case).size)
            try:
                contestant.session.attach(arena)
                outputs = run_case(contestant.session, arena, judge.device, task, case, CALL_SECONDS)
                contestant.session.detach()
                return {out: compare_output(task, case, out, copies[0]).rms for out, copies in outputs.items()}
            except WorkerError as error:
                judge.baselines.drop(task, name, error)
            finally:
                arena.close()
        return {}

    def _note(self, result: CaseResult) -> None:
        """Turn one case's result into checks."""
        case, checks = result.case, self.scope.checks
        hidden = "hidden_shapes" if case.workload.count == 0 else "public_shapes"
        name = _CHECK_OF.get(case.regime, hidden)
        self.right += result.right
        if result.replayed:
            self.tampered = f"gave the smoke check's answer for other inputs: {result.wrong}"
        if result.wrong:
            checks.failed(name, result.wrong)
        else:
            checks.passed(name)
        where = f" on {case.describe()}"
        for check, problem in (
            ("poison", result.poison), ("canaries", result.canary),
            ("inputs_unchanged", f"the read-only argument {result.mutated!r} was modified" if result.mutated else ""),
        ):
            if problem:
                checks.failed(check, problem + where)
            else:
                checks.passed(check)
