"""One submission on its way through the stages: smoke, verify, profile. Fills checks and measurements; decides nothing."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec
import torch

from ..checks import CheckList
from ..device import Arena
from ..protocol import Load
from ..task import Task, Workload
from ..types import Artifact, Language, Regime, Speedup, Stage, Timing
from .answers import TimedFailure
from .cases import Case, derive_seed, make_case
from .effort import Effort
from .errors import CompileError, WorkerError, WorkerRaised
from .layout import plan_layout
from .ring import InputSets
from .score import speedup
from .timing import Entrant, draw_sets, measure
from .verify import CaseResult, case_layout, compare_output, run_case, smoke_failure, verify_case

if TYPE_CHECKING:
    from .judge import Judge
    from .session import WorkerSession

LOAD_SECONDS = 20.0
FIRST_CALL_SECONDS = 12.0
"""The first call compiles what is compiled just in time."""
CALL_SECONDS = 12.0
INTERPRETED_SECONDS = 120.0
AHEAD_SECONDS = 60.0
_COMPILER_ERRORS = frozenset({
    "CompilationError", "CompileTimeAssertionFailure", "UnsupportedLanguageConstruct", "OutOfResources", "PTXASError", "MLIRError",
})
_CHECK_OF = {Regime.SKEWED: "skewed_inputs", Regime.EMPTY: "empty_batch"}


class Trial:
    """State of one evaluation on one device.

    Args:
        judge: Owns device, workers, baselines.
        task: The task.
        seed: The evaluation's seed.
        effort: Amounts.
        checks: Filled as stages run.
    """

    def __init__(self, judge: Judge, task: Task, seed: int, effort: Effort, checks: CheckList) -> None:
        self.judge, self.task, self.seed, self.effort, self.checks = judge, task, seed, effort, checks
        self.seconds: dict[str, float] = {}
        self.timings: list[Timing] = []
        self.speedup: Speedup | None = None
        self.setup_us: dict[str, float] = {}
        self.right = self.tried = 0
        self.error: WorkerError | None = None
        self.tampered = ""
        self._earlier: dict[str, torch.Tensor] = {}
        self.own_kernel_share: float | None = None
        self.resources: dict[str, float] = {}
        self.output = ""
        self.stage = Stage.BUILD
        self.interpreted = False
        self._session: WorkerSession | None = None
        self._arena: Arena | None = None
        self._cases: list[Case] = []
        self._sets: dict[str, InputSets] = {}

    @contextlib.contextmanager
    def timed(self, stage: Stage) -> Iterator[None]:
        """Account wall time to a stage."""
        self.stage = stage
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage.value] = self.seconds.get(stage.value, 0.0) + time.perf_counter() - start

    def draw_ahead(self) -> None:
        """Draw what `run` needs first, while the submission is still being built.

        Raises:
            JudgeFault: The task's generator or oracle is broken.
        """
        self._cases = self._draw_cases()
        first, plan = self._public_workloads()[0], self.effort.plan(self.judge.device.kind)
        self._sets[first.name] = draw_sets(self.judge, self.task, first, derive_seed(self.seed, "ring"), plan)

    def run(self, artifact: Artifact, kernels: tuple[str, ...]) -> None:
        """Take a built submission through every stage that it reaches; a `WorkerError` ends it and is kept.

        Raises:
            CompileError: A Triton kernel does not compile.
            JudgeFault: Something of ours broke.
        """
        device = self.judge.device
        self.interpreted = device.kind == "cpu" and artifact.language is Language.PYTHON and bool(kernels)
        try:
            if self.interpreted:
                with self.timed(Stage.BUILD):
                    self._compile_ahead(artifact)
            with self.timed(Stage.SMOKE):
                self._load(artifact)
                smoked = self._smoke()
            with self.timed(Stage.VERIFY):
                self._verify()
            if smoked and not self.interpreted:
                with self.timed(Stage.PROFILE):
                    self._profile(artifact, kernels)
        except WorkerError as error:
            self.error = error.with_traceback(None)  # its frames hold arenas and everything drawn
            self.output = error.detail
        except TimedFailure as failure:
            verified = self.checks.first_failure(Stage.VERIFY) is None
            self.checks.failed("timed_outputs", failure.detail)
            if failure.tampered and verified:
                self.tampered = failure.detail
        finally:
            self.close()

    def close(self) -> None:
        """End the worker and free memory. Idempotent."""
        if self._session is not None:
            self.output = self.output or self._session.output()
            self._session.close()
            self._session = None
        if self._arena is not None:
            self._arena.close()
            self._arena = None

    def _compile_ahead(self, artifact: Artifact) -> None:
        """Compile the kernels for sm_90 without a GPU, as the smoke call would launch them.

        Raises:
            CompileError: Triton refuses a kernel. Other failures of the entry are left to the smoke check.
        """
        device, task = self.judge.device, self.task
        case = make_case(task, task.smoke_workload(device.kind), Regime.NORMAL, derive_seed(self.seed, "ahead"), device.torch_device)
        session, arena = self.judge.host.spawn(), device.allocate(case_layout(task, case).size)
        try:
            session.load(msgspec.structs.replace(self._load_request(artifact), interpret=False, ahead=True), LOAD_SECONDS)
            session.attach(arena)
            session.bind([plan_layout(task, case.workload, [case.args]).slots[0].arguments])
            session.setup([0], FIRST_CALL_SECONDS)
            self.resources = session.run([0], AHEAD_SECONDS).data
        except WorkerRaised as error:
            if error.kind in _COMPILER_ERRORS:
                raise CompileError(error.summary, error.detail) from None
        except WorkerError:
            pass
        finally:
            session.close()
            arena.close()

    # -- smoke and verify ------------------------------------------------------------------------------------------------------

    def _load(self, artifact: Artifact) -> None:
        self._session = self.judge.host.spawn()
        self._session.load(self._load_request(artifact), LOAD_SECONDS)
        self._cases = self._cases or self._draw_cases()
        nbytes = max(case_layout(self.task, case).size for case in self._cases)
        self._arena = self.judge.device.allocate(nbytes)
        self._session.attach(self._arena)

    def _load_request(self, artifact: Artifact) -> Load:
        signature = self.task.signature
        return Load(
            artifact.path, artifact.language.value, artifact.entry, tuple(arg.name for arg in signature),
            tuple(arg.role.value for arg in signature), artifact.has_prepare, artifact.has_plan, interpret=self.interpreted,
        )

    def _draw_cases(self) -> list[Case]:
        """The smoke case first, then every verification case."""
        kind, task = self.judge.device.kind, self.task
        public = self._public_workloads()
        rng = random.Random(derive_seed(self.seed, "hidden"))
        hidden = task.hidden_workloads(kind, rng, self.effort.hidden + 1)
        plan = [(task.smoke_workload(kind), Regime.NORMAL), *((w, Regime.REALISTIC) for w in public)]
        plan += [(w, Regime.REALISTIC) for w in hidden[:-1]]
        if Regime.SKEWED in task.regimes:
            largest = max(public, key=lambda workload: workload.sizes.get(task.batch, 0))  # where a skew reaches its extremes
            plan += [(largest, Regime.SKEWED), (hidden[-1], Regime.SKEWED)]
        if Regime.EMPTY in task.regimes:
            plan += [(public[0], Regime.EMPTY)]
        where = self.judge.device.torch_device
        return [make_case(task, w, r, derive_seed(self.seed, "case", i), where) for i, (w, r) in enumerate(plan)]

    def _public_workloads(self) -> list[Workload]:
        kind = self.judge.device.kind
        quick = self.interpreted or not self.effort.all_public
        return [self.task.smoke_workload(kind)] if quick else self.task.workloads(kind)

    def _smoke(self) -> bool:
        assert self._session
        assert self._arena
        seconds = INTERPRETED_SECONDS if self.interpreted else FIRST_CALL_SECONDS
        outputs = run_case(self._session, self._arena, self.judge.device, self.task, self._cases[0], seconds)
        failure = smoke_failure(self.task, self._cases[0], outputs)
        if failure:
            self.checks.failed("smoke", failure)
        else:
            self.checks.passed("smoke", self._cases[0].describe())
            self._earlier = {name: copies[0] for name, copies in outputs.items()}
        return not failure

    def _verify(self) -> None:
        assert self._session
        assert self._arena
        self.tried = len(self._cases) - 1
        seconds = INTERPRETED_SECONDS if self.interpreted else CALL_SECONDS
        for case in self._cases[1:]:
            result = verify_case(self._session, self._arena, self.judge.device, self.task, case, seconds, earlier=self._earlier)
            if result.wrong and result.rms < 0.1:
                result = self._recheck(case, result, seconds)
            self._note(result)
        verified, public = len(self._public_workloads()), len(self.task.workloads(self.judge.device.kind))
        if verified < public:
            self.checks.passed("public_shapes", f"{verified} of {public}: the smoke shape only")
        for regime, name in _CHECK_OF.items():
            if regime not in self.task.regimes:
                self.checks.waive(name, "the task has no such structure")
        self._session.detach()
        self._arena.close()
        self._arena = None

    def _recheck(self, case: Case, result: CaseResult, seconds: float) -> CaseResult:
        """A small excess of error counts only if a production implementation does better on the same inputs."""
        assert self._session
        assert self._arena
        limits = self._baseline_errors(case)
        if not limits:
            return result
        return verify_case(self._session, self._arena, self.judge.device, self.task, case, seconds, limits, self._earlier)

    def _baseline_errors(self, case: Case) -> dict[str, float]:
        """Relative RMS error of the first uncompiled baseline, by output."""
        for name, contestant in list(self.judge.baselines.contestants(self.task, compiled=False).items()):
            if contestant.baseline.compile:
                continue
            arena = self.judge.device.allocate(case_layout(self.task, case).size)
            try:
                contestant.session.attach(arena)
                outputs = run_case(contestant.session, arena, self.judge.device, self.task, case, CALL_SECONDS)
                contestant.session.detach()
                return {out: compare_output(self.task, case, out, copies[0]).rms for out, copies in outputs.items()}
            except WorkerError as error:
                self.judge.baselines.drop(self.task, name, error)
            finally:
                arena.close()
        return {}

    def _note(self, result: CaseResult) -> None:
        """Turn one case's result into checks."""
        case = result.case
        hidden = "hidden_shapes" if case.workload.count == 0 else "public_shapes"
        name = _CHECK_OF.get(case.regime, hidden)
        self.right += result.right
        if result.replayed:
            self.tampered = f"gave the smoke check's answer for other inputs: {result.wrong}"
        if result.wrong:
            self.checks.failed(name, result.wrong)
        else:
            self.checks.passed(name)
        where = f" on {case.describe()}"
        for check, problem in (
            ("poison", result.poison), ("canaries", result.canary),
            ("inputs_unchanged", f"the read-only argument {result.mutated!r} was modified" if result.mutated else ""),
        ):
            if problem:
                self.checks.failed(check, problem + where)
            else:
                self.checks.passed(check)

    # -- profile ---------------------------------------------------------------------------------------------------------------

    def _profile(self, artifact: Artifact, kernels: tuple[str, ...]) -> None:
        assert self._session
        contestants = self.judge.contestants(self.task, self.effort.compiled)
        candidate = Entrant("candidate", self._session, artifact.has_plan, verified=True)
        plan = self.effort.plan(self.judge.device.kind)
        measured = []
        for workload in self._public_workloads():
            seed, sets = derive_seed(self.seed, "ring"), self._sets.pop(workload.name, None)
            measured.append(measure(self.judge, self.task, workload, seed, plan, candidate, contestants, sets))
            self.timings.append(measured[-1].timing)
            self.setup_us |= measured[-1].setup_us
        self.checks.passed("timed_outputs")
        self.checks.passed("clock", "no output changed after the worker had said that it was done")
        self._check_floor()
        self.speedup = speedup([m.samples for m in measured], self.judge.noise_floor)
        if self.effort.trace and self.judge.device.kind == "cuda":
            self.own_kernel_share = self._trace(kernels)

    def _trace(self, kernels: tuple[str, ...]) -> float | None:
        """Share of device time in the submission's own kernels, as its own process reports it."""
        assert self._session
        assert self._arena is None
        device = self.judge.device
        workload = self.task.smoke_workload(device.kind)
        case = make_case(self.task, workload, Regime.REALISTIC, derive_seed(self.seed, "trace"), device.torch_device)
        self._arena = device.allocate(case_layout(self.task, case).size)
        self._session.attach(self._arena)
        run_case(self._session, self._arena, device, self.task, case, CALL_SECONDS)
        spent = self._session.trace([0, 1], CALL_SECONDS)
        total = sum(spent.values())
        own = sum(us for name, us in spent.items() if any(kernel in name for kernel in kernels))
        return own / total if total > 0 else None

    def _check_floor(self) -> None:
        if self.judge.device.published_peaks() is None:
            self.checks.waive("void_floor", "no published peaks are known for this device")
            return
        for timing in self.timings:
            if timing.floor_us is not None and timing.candidate_us < timing.floor_us:
                detail = f"{timing.candidate_us:.3g} us on {timing.workload}: its bytes and FLOPs alone need {timing.floor_us:.3g} us"
                self.checks.failed("void_floor", detail)
                self.tampered = detail
        self.checks.passed("void_floor")
