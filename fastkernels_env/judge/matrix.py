"""The smoke and verify stages: which cases a submission is run on, and what each of them means for the checks."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch

from .._hidden import draw_apart
from ..device import Arena
from ..types import Regime
from .cases import Case, derive_seed, make_case
from .compare import FAR_RMS
from .overflow import verify_overflow
from .probes import FEW_TOKENS, MOST_TOKENS, Findings, Probe, probe_bases
from .scope import FIRST_CALL_SECONDS, INTERPRETED_SECONDS, Scope
from .verify import CaseResult, case_layout, judge_case, observe_case, run_case, smoke_failure

if TYPE_CHECKING:
    from .session import WorkerSession

_CHECK_OF = {Regime.SKEWED: "skewed_inputs", Regime.EMPTY: "empty_batch"}


class Matrix:
    """The verification cases of one evaluation, drawn and judged.

    Args:
        scope: The evaluation.

    Attributes:
        cases: The smoke case first, then every verification case.
        probes: Small cases that are run among other calls.
        right: Cases that were right in every respect.
        tried: Cases that count.
        tampered: Evidence of cheating, if any.
    """

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.right = self.tried = 0
        self.tampered = ""
        self.cases = self._draw_cases()
        self.probes = self._draw_probes()
        self._earlier: dict[str, torch.Tensor] = {}
        self._asked = False

    @property
    def nbytes(self) -> int:
        """Size of an arena that fits every case."""
        cases = (case_layout(self.scope.task, case).size for case in self.cases)
        return max(*cases, *(probe.layout.size for probe in self.probes))

    def _draw_cases(self) -> list[Case]:
        scope, task = self.scope, self.scope.task
        public = scope.public_workloads()
        rng = random.Random(derive_seed(scope.seed, "hidden"))
        hidden = draw_apart(task, scope.kind, rng, scope.effort.hidden + 1)
        plan = [(task.smoke_workload(scope.kind), Regime.NORMAL), *((w, Regime.REALISTIC) for w in public)]
        plan += [(w, Regime.REALISTIC) for w in hidden[:-1]]
        if Regime.SKEWED in task.regimes:
            largest = max(public, key=lambda workload: workload.sizes.get(task.batch, 0))  # where a skew reaches its extremes
            plan += [(largest, Regime.SKEWED), (hidden[-1], Regime.SKEWED)]
        if Regime.EMPTY in task.regimes:
            plan += [(public[0], Regime.EMPTY)]
        where = scope.judge.device.torch_device
        return [make_case(task, w, r, derive_seed(scope.seed, "case", i), where) for i, (w, r) in enumerate(plan)]

    def _draw_probes(self) -> list[Probe]:
        scope, where = self.scope, self.scope.judge.device.torch_device
        thorough = scope.effort.all_public and not scope.interpreted
        bases = probe_bases(scope.task, scope.task.workloads(scope.kind), 2 if thorough else 1)
        most = FEW_TOKENS if scope.interpreted else MOST_TOKENS
        return [Probe(scope.task, base, derive_seed(scope.seed, "probe", i), where, scope.kind, most) for i, base in enumerate(bases)]

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
            seen = observe_case(session, arena, scope.judge.device, scope.task, case, scope.call_seconds)
            result = judge_case(scope.task, case, seen, earlier=self._earlier)
            if result.wrong and (result.rms < FAR_RMS or not self._asked):
                # A small excess counts only if a production implementation does better on these inputs, a large one if it answers them.
                self._asked = True
                result = judge_case(scope.task, case, seen, self._baseline_errors(case), self._earlier)
            self._note(result)
        verified, public = len(scope.public_workloads()), len(scope.task.workloads(scope.kind))
        if verified < public:
            scope.checks.passed("public_shapes", f"{verified} of {public}: the smoke shape only")
        for regime, name in _CHECK_OF.items():
            if regime not in scope.task.regimes:
                scope.checks.waive(name, "the task has no such structure")
        for probe in self.probes:
            self._note_probe(probe.run(session, arena, scope.judge.device, scope.call_seconds, self._baseline_errors), probe)
        verify_overflow(scope, session)

    def release(self) -> None:
        """Give back what was drawn: the oracles of large cases take gigabytes. What was noted stays."""
        self.cases, self.probes, self._earlier = [], [], {}

    def _baseline_errors(self, case: Case) -> dict[str, float]:
        return self.scope.judge.baselines.errors(self.scope.task, case)

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

    def _note_probe(self, found: Findings, probe: Probe) -> None:
        """Turn what a probe showed into checks."""
        checks, where = self.scope.checks, f" on {probe.first.describe()}"
        if found.wrong:
            checks.failed("hidden_shapes", found.wrong)
        for check, problem, detail in (
            ("canaries", found.canary + where if found.canary else "", ""),
            ("inputs_unchanged", f"the read-only argument {found.mutated!r} was modified{where}" if found.mutated else "", ""),
            ("aliasing", found.aliasing + where if found.aliasing else "", ""),
            ("determinism", found.determinism, ""),
            ("perturbation", found.perturbation, f"changed: {', '.join(found.changes)}"),
        ):
            if problem:
                checks.failed(check, problem)
            elif found.wrong and check in ("determinism", "perturbation"):
                checks.not_run(check, "the case that it repeats and changes was wrong")
            elif check != "perturbation" or found.changes:
                checks.passed(check, detail)
            else:
                checks.waive(check, "no single change is visible in the oracle")
