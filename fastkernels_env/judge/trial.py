"""One submission on its way through the stages: smoke, verify, integrate, profile. Fills checks and measurements; decides nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from ..checks import CheckList
from ..clock import now
from ..device import Arena
from ..task import Task
from ..types import Artifact, Regime, Stage
from .answers import TimedFailure
from .cases import derive_seed, make_case
from .contest import Contest
from .effort import Effort
from .errors import CompileError, WorkerError, WorkerRaised
from .gate import Gate
from .layout import plan_layout
from .matrix import Matrix
from .rig import start_worker, state_changes
from .scope import AHEAD_SECONDS, FIRST_CALL_SECONDS, LOAD_SECONDS, Scope
from .verify import case_layout

if TYPE_CHECKING:
    from .judge import Judge
    from .session import WorkerSession

_COMPILER_ERRORS = frozenset({
    "CompilationError", "CompileTimeAssertionFailure", "UnsupportedLanguageConstruct", "OutOfResources", "PTXASError", "MLIRError",
})


class Trial:
    """State of one evaluation on one device.

    Args:
        judge: Owns device, workers, baselines.
        task: The task.
        seed: The evaluation's seed.
        effort: Amounts.
        checks: Filled as stages run.
        interpreted: Whether the submission's kernels run in Triton's interpreter.
    """

    def __init__(self, judge: Judge, task: Task, seed: int, effort: Effort, checks: CheckList, interpreted: bool = False) -> None:
        self.scope = Scope(judge, task, seed, effort, checks, interpreted)
        self.contest = Contest(self.scope)
        self.seconds: dict[str, float] = {}
        self.error: WorkerError | None = None
        self.resources: dict[str, float] = {}
        self.output = ""
        self.stage = Stage.BUILD
        self._tampered = ""
        self._matrix: Matrix | None = None
        self._gate: Gate | None = None
        self._session: WorkerSession | None = None
        self._arena: Arena | None = None

    @property
    def tampered(self) -> str:
        """Evidence of cheating, if any."""
        return self._tampered or (self._matrix.tampered if self._matrix else "") or self.contest.tampered

    @property
    def workloads_right(self) -> float:
        """Share of the verified cases that were right, 0 to 1."""
        return self._matrix.right / self._matrix.tried if self._matrix and self._matrix.tried else 0.0

    @property
    def matrix(self) -> Matrix:
        """The verification cases, drawn when they are first asked for."""
        if self._matrix is None:
            self._matrix = Matrix(self.scope)
        return self._matrix

    @contextlib.contextmanager
    def timed(self, stage: Stage) -> Iterator[None]:
        """Account wall time to a stage."""
        self.stage = stage
        start = now()
        try:
            yield
        finally:
            self.seconds[stage.value] = self.seconds.get(stage.value, 0.0) + now() - start

    def draw_ahead(self) -> None:
        """Draw what `run` needs first, while the submission is still being built.

        Raises:
            JudgeFault: The task's generator or oracle is broken.
        """
        _ = self.matrix
        self.contest.draw_ahead()

    def run(self, artifact: Artifact, kernels: tuple[str, ...], profile: bool = True) -> None:
        """Take a built submission through every stage that it reaches; a `WorkerError` ends it and is kept.

        Args:
            artifact: What was built.
            kernels: Names of the device kernels that the source defines.
            profile: False to stop before the integrate gate and the clock (task qualification does).

        Raises:
            CompileError: A Triton kernel does not compile.
            JudgeFault: Something of ours broke.
        """
        try:
            if self.scope.interpreted:
                with self.timed(Stage.BUILD):
                    self._compile_ahead(artifact)
            with self.timed(Stage.SMOKE):
                session, arena = self._load(artifact, profile)
                smoked = self.matrix.smoke(session, arena)
            if self._gate is not None and smoked:
                self._gate.start()  # beside the verification
            elif self._gate is not None:
                self._gate.close()
                self._gate = None
            with self.timed(Stage.VERIFY):
                self.matrix.verify(session, arena)
                self.matrix.release()
                session.detach()
                self._drop_arena()
                self.scope.judge.device.trim()
            self._integrate()
            if smoked and profile and not self.scope.interpreted:
                with self.timed(Stage.PROFILE):
                    self.contest.run(self._contestant(artifact), artifact, kernels)
        except WorkerError as error:
            self.error = error.with_traceback(None)  # its frames hold arenas and everything drawn
            self.output = error.detail
        except TimedFailure as failure:
            checks = self.scope.checks
            verified = checks.first_failure(Stage.VERIFY) is None
            checks.failed("timed_outputs", failure.detail)
            if failure.tampered and verified:
                self._tampered = failure.detail
        finally:
            self.close()

    def _integrate(self) -> None:
        """Run what is right through the gate, and end a worker that it has of its own before the clock starts."""
        if self._gate is None:
            return
        judge = self.scope.judge
        if judge.device.dear_workers and judge.turnstile.shared:
            judge.spare.prepare()
        with self.timed(Stage.INTEGRATE):
            if self.scope.checks.first_failure(Stage.VERIFY) is None:
                self._gate.run()
            self._gate.close()

    def close(self) -> None:
        """End the workers and free memory. Idempotent."""
        if self._gate is not None:
            self._gate.close()
        if self._session is not None:
            self.output = self.output or self._session.output()
            self._session.close()
            self._session = None
        self._drop_arena()

    def _drop_arena(self) -> None:
        if self._arena is not None:
            self._arena.close()
            self._arena = None

    def _load(self, artifact: Artifact, profile: bool) -> tuple[WorkerSession, Arena]:
        scope = self.scope
        shared = profile and scope.judge.device.dear_workers
        self._session = start_worker(scope) if shared else scope.judge.host.spawn(scope.task)
        self._session.load(scope.load_request(artifact), LOAD_SECONDS)
        if profile:
            self._gate = Gate(scope, artifact, self._session, state_changes(self._session)) if shared else Gate(scope, artifact)
        self._arena = scope.judge.device.allocate(self.matrix.nbytes, scope.task.ranks)
        self._session.attach(self._arena)
        return self._session, self._arena

    def _contestant(self, artifact: Artifact) -> WorkerSession:
        """The submission's worker, or another one if a check of the gate has ended it; one that ended by itself is held against it."""
        assert self._session
        if self._gate is not None and self._gate.lost:
            self._session = self.scope.judge.host.spawn(self.scope.task)
            self._session.load(self.scope.load_request(artifact), LOAD_SECONDS)
        return self._session

    def _compile_ahead(self, artifact: Artifact) -> None:
        """Compile the kernels for sm_90 without a GPU, as the smoke call would launch them.

        Raises:
            CompileError: Triton refuses a kernel. Other failures of the entry are left to the smoke check.
        """
        judge, task = self.scope.judge, self.scope.task
        device = judge.device
        case = make_case(task, task.smoke_workload(device.kind), Regime.NORMAL, derive_seed(self.scope.seed, "ahead"), device.torch_device)
        session, arena = judge.host.spawn(task), device.allocate(case_layout(task, case).size, task.ranks)
        try:
            session.load(msgspec.structs.replace(self.scope.load_request(artifact), interpret=False, ahead=True), LOAD_SECONDS)
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
