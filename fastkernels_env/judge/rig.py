"""A submission in a worker of the integrate gate, with its cases in place: opened, run a step at a time, compared."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from ..device import Arena
from ..ops import schema_of
from ..types import Artifact
from .cases import Case, derive_seed
from .drill import Drill
from .errors import StepFailed, WorkerRaised
from .scope import FIRST_CALL_SECONDS, INTERPRETED_SECONDS, LOAD_SECONDS, Scope
from .slots import Slots
from .spare import start_ready
from .verify import compare_output, first_failure, same_bytes

if TYPE_CHECKING:
    from .session import WorkerSession

FIRST, SECOND, OTHER, RESULT = range(4)
"""Calls: two on the base workload, one on another size, and one whose outputs take other calls' results."""
PAIRS = range(4, 12)
"""Calls on the base workload, in turn on the first and on the second case's values (CUDA)."""
STEP_SECONDS = 20.0
_TOLERATED = 0.1
"""Largest relative RMS error of an eager call that is left to verification."""


class Eager(NamedTuple):
    """What a call gave when it was simply called: outputs and their relative RMS errors, by name."""

    outputs: dict[str, torch.Tensor]
    errors: dict[str, float]


def start_worker(scope: Scope) -> WorkerSession:
    """A worker for the gate, with its compile stack ready and its global state noted; nothing is loaded yet.

    Raises:
        JudgeFault: It cannot be started, or the compile stack of this host cannot be used.
    """
    judge = scope.judge
    if scope.task.ranks == 1 and not scope.interpreted and (spare := judge.spare.take()) is not None:
        judge.host.note(spare)
        return spare
    return start_ready(judge.host, scope.task, stack=not scope.interpreted)


def state_changes(session: WorkerSession) -> str:
    """What of a worker's global state differs from what `start_worker` noted, as reported; empty if nothing does."""
    try:
        return session.changes(STEP_SECONDS)
    except StepFailed as error:
        return f"the state can no longer be read: {error.summary}"


def abort(session: WorkerSession) -> None:
    """Kill a worker while another thread waits for it: that thread then learns that it died. May be called from any thread."""
    with contextlib.suppress(OSError):
        os.kill(session.pid, signal.SIGKILL)


class Rig:
    """A worker that can be replaced, and the cases that it runs.

    Args:
        scope: The evaluation.
        artifact: What was built.
        loaded: What of the global state loading changed, where a worker that has it loaded is given to `open`.

    Attributes:
        drill: Draws further cases.
        cases: By call.
        loaded: What of the global state loading changed, as reported.
        called: The same after the first calls.
        unregistered: Why the entry is no operator; empty if it is.
        wrong_eagerly: Why a plain call in a fresh worker is wrong; empty if it is right.
    """

    def __init__(self, scope: Scope, artifact: Artifact, loaded: str = "") -> None:
        self.scope, self.artifact, self.loaded = scope, artifact, loaded
        device = scope.judge.device
        self.drill = Drill(scope.task, device.kind, device.torch_device, derive_seed(scope.seed, "gate"), artifact.has_plan)
        self.called = self.unregistered = self.wrong_eagerly = ""
        self.cases = self._draw()
        self.session: WorkerSession | None = None
        self._slots = Slots(scope.task, self.cases)
        self._arena: Arena | None = None
        self._eager: dict[int, Eager] = {}

    def _draw(self) -> list[Case]:
        smallest = min(self.drill.sizes, default=None)
        if self.scope.interpreted:
            return [self.drill.case("first", smallest)]
        first = self.drill.case("first")
        second = self.drill.case("second", like=first)
        other = self.drill.case("other", self.drill.sizes[0] if self.drill.sizes else None)
        cases = [first, second, other]
        if self.scope.kind == "cuda":
            cases += [first, *(first if index % 2 == 0 else second for index in PAIRS)]
        return cases

    def open(self, worker: WorkerSession | None = None) -> None:
        """Load the submission into a worker, and call it once on every case.

        Args:
            worker: One that `start_worker` gave and that has it loaded, with nothing attached; started here if None.

        Raises:
            WorkerError: The submission raised, died or hung.
            JudgeFault: The compile stack of this host cannot be used.
        """
        scope = self.scope
        self.session = worker or start_worker(scope)
        if worker is None:
            self.session.load(scope.load_request(self.artifact), LOAD_SECONDS)
            self.loaded = self.loaded or state_changes(self.session)
        try:
            ops = {op.name: schema_of(op.name, op.signature) for op in scope.task.ops if op.name in self.artifact.ops}
            self.session.register(schema_of(scope.task.entry, scope.task.entry_signature), ops, STEP_SECONDS)
        except StepFailed as error:
            self.unregistered = error.summary
        self._arena = scope.judge.device.allocate(self._slots.size, scope.task.ranks)
        self.session.attach(self._arena)
        self.session.bind(self._slots.calls)
        calls = range(min(len(self.cases), RESULT))
        self.write(*calls, weights=True)
        self.session.setup(range(len(self.cases)), FIRST_CALL_SECONDS)
        self._call_eagerly(calls)
        self.called = self.called or state_changes(self.session)

    def _call_eagerly(self, calls: Sequence[int]) -> None:
        assert self.session
        assert self._arena
        self.scope.judge.device.synchronize()  # what was written must lie there: a worker that has compiled everything is quick
        try:
            self.session.step("eager", calls, INTERPRETED_SECONDS if self.scope.interpreted else FIRST_CALL_SECONDS)
        except StepFailed as error:
            raise WorkerRaised(error.summary, "", error.kind) from None
        for index in calls:
            case = self.cases[index]
            outputs = self._slots.outputs(self._arena, index)
            errors = {name: compare_output(self.scope.task, case, name, actual).rms for name, actual in outputs.items()}
            tolerated = {name: min(rms, _TOLERATED) for name, rms in errors.items()}
            self.wrong_eagerly = self.wrong_eagerly or first_failure(self.scope.task, case, outputs, tolerated)[0]
            self._eager[index] = Eager(outputs, errors)

    def write(self, *calls: int, weights: bool = False, late: bool = False) -> None:
        """Write the inputs of these calls anew, each its own case, and poison their outputs."""
        for index in calls:
            self.put(index, self.cases[index], weights=weights, late=late)

    def put(self, index: int, case: Case, *, weights: bool = False, late: bool = False) -> None:
        """Write a case into the buffers of a call; see `Slots.write`."""
        assert self._arena
        self._slots.write(self._arena, index, case, poison=index % 2, weights=weights, late=late)

    def step(self, way: str, *calls: int, seconds: float = STEP_SECONDS) -> dict[str, float]:
        """Run calls one of the gate's ways.

        Raises:
            StepFailed: The submission raised.
            WorkerError: It died or hung.
        """
        assert self.session
        self.scope.judge.device.synchronize()
        return self.session.step(way, calls, seconds)

    def wrong(self, index: int, case: Case | None = None) -> str:
        """Why the outputs of a call are wrong; empty if they are right. `case`: the one it ran on, if that is not its own."""
        assert self._arena
        case = case or self.cases[index]
        known, outputs = self._known(case), self._slots.outputs(self._arena, index)
        if known and all(same_bytes(outputs[name], right) for name, right in known.outputs.items()):
            return ""
        return first_failure(self.scope.task, case, outputs, known.errors if known else {})[0]

    def _known(self, case: Case) -> Eager | None:
        return next((self._eager[index] for index in self._eager if self.cases[index] is case), None)

    def modified(self, index: int) -> str:
        """The name of a read-only argument of a call that no longer holds its bytes; empty if there is none."""
        assert self._arena
        return self._slots.modified(self._arena, index, self.cases[index])

    def close(self) -> None:
        """End the worker and free memory. Idempotent; `open` may follow."""
        if self.session is not None:
            self.session.close()
            self.session = None
        if self._arena is not None:
            self._arena.close()
            self._arena = None
