"""The integrate gate: does the submission live in the compile and runtime stacks that production puts around it?

It has a worker of its own, which starts while the submission is still being verified; where workers are dear it takes the one that was
verified, and gives it back. Whatever runs, inputs are written by the judge, outputs lie poisoned in the judge's buffers, and the judge
compares them. What the worker merely says can only count against it. A check that ends the worker fails, and the next one gets a fresh
worker.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

from ..checks import BY_NAME, CheckList
from ..clock import now
from ..types import Artifact, Evidence, Language
from . import stack
from .errors import StepFailed, WorkerDied, WorkerError, WorkerRaised
from .growth import LEAST_SIZES, Finding, Sweep
from .memory import blame_nobody_for_memory
from .rig import Rig, abort
from .scope import Scope

if TYPE_CHECKING:
    from .session import WorkerSession

_CONSEQUENCES = {
    "cuda_graph": "a serving engine cannot replay it from a CUDA graph",
    "op_schema": "a compiler that goes by the schema breaks it, or the operations around it",
    "opaque_graph": "a model that goes through torch.compile cannot contain it",
    "inline_trace": "torch.compile cannot trace it; as an opaque operator it is not fused with its neighbours",
    "recompiles": "every batch size that is new stalls the server",
    "side_stream": "on the streams of an engine it computes from data that is not there yet",
    "second_device": "where its tensors are not on the current device it fails or corrupts memory",
    "concurrent_streams": "batches that are in flight together damage each other",
    "memory_growth": "a server that runs it ends out of memory",
    "global_state": "whatever else runs in the process does so under other settings",
}
_STACK_CHECKS: tuple[tuple[str, Callable[[Rig], str]], ...] = (
    ("op_schema", stack.check_schema), ("opaque_graph", stack.check_opaque), ("inline_trace", stack.check_inline),
    ("side_stream", stack.check_side_stream), ("concurrent_streams", stack.check_concurrent),
    ("second_device", stack.check_second_device), ("cuda_graph", stack.check_graph),
)
"""In this order: a capture that fails may leave a context in which nothing works."""
_INTERPRETED = "kernels run in Triton's interpreter here, which no compile or runtime stack contains"


class Gate:
    """The integrate stage of one evaluation.

    Args:
        scope: The evaluation.
        artifact: What was built.
        worker: One that `start_worker` gave and that has it loaded: its owner detaches what is attached before `run`, and ends it.
            None: the gate starts one.
        loaded: What of the global state loading changed in that one.

    Attributes:
        lost: Whether a check has ended the worker that was given.
        seconds: Wall time of each check, for measurements.
    """

    def __init__(self, scope: Scope, artifact: Artifact, worker: WorkerSession | None = None, loaded: str = "") -> None:
        self._scope, self._artifact, self._worker, self._loaded = scope, artifact, worker, loaded
        self._checks: CheckList = scope.checks
        self._rig: Rig | None = None
        self._sweep: Sweep | None = None
        self._opening: Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gate")
        self.lost = False
        self.seconds: dict[str, float] = {}

    def start(self) -> None:
        """Draw the cases and open the worker in the background, unless that is still at work on something else."""
        if self._worker is None:
            self._opening = self._thread.submit(self._open)

    def run(self) -> None:
        """Perform every check that this device, language and task allow.

        Raises:
            WorkerError: The submission raised, died or hung where nothing of the gate was asked of it yet.
            JudgeFault: Something of ours broke.
        """
        if self._opening is None:
            self._open()
        else:
            self._opening.result()
        assert self._rig
        if self._rig.wrong_eagerly:
            where = "in a process of its own" if self._worker is None else "after it had been verified"
            self._checks.failed("hidden_shapes", f"{where}: {self._rig.wrong_eagerly}")
            return
        self._note_state(self._rig)
        for name, check in _STACK_CHECKS:
            if reason := self._inapplicable(name):
                self._checks.waive(name, reason)
            elif self._scope.kind in BY_NAME[name].devices:
                self._perform(name, functools.partial(self._seen, name, check))
        for name, look in (("recompiles", Sweep.check_compilations), ("memory_growth", Sweep.check_memory)):
            if reason := self._inapplicable(name):
                self._checks.waive(name, reason)
            else:
                self._perform(name, functools.partial(self._swept, look))

    def _open(self) -> None:
        start = now()
        self._rig = Rig(self._scope, self._artifact, self._loaded)
        self._rig.open(self._worker)
        self.seconds["open"] = now() - start

    def _inapplicable(self, name: str) -> str:
        """Why a check says nothing about this submission, or on this host; empty if it does."""
        assert self._rig
        if self._scope.interpreted and name not in ("op_schema", "global_state"):
            return _INTERPRETED
        if name == "inline_trace" and self._artifact.language is not Language.PYTHON:
            return "native code is an opaque operator: there is no Python to trace"
        if name == "second_device" and self._scope.kind == "cuda" and torch.cuda.device_count() < 2:
            return "only one device is visible"
        if name in ("second_device", "concurrent_streams") and self._scope.task.ranks > 1:
            return "ranks meet in the order of their calls, each on its own device"
        if name == "recompiles" and len(self._rig.drill.sizes) <= LEAST_SIZES:
            return f"the task has {len(self._rig.drill.sizes)} unseen batch sizes only"
        return ""

    def _perform(self, name: str, check: Callable[[Rig], Finding]) -> None:
        """Run one check; whatever becomes of the worker, the next one can run."""
        assert self._rig
        start = now()
        if self._rig.session is None:
            self._rig.open()
        try:
            seen = check(self._rig)
        except StepFailed as error:
            blame_nobody_for_memory(self._scope.judge, error.summary)
            self._fail(name, error.summary, Evidence.REPORTED)
            if self._scope.kind == "cuda" and "CUDA" in error.summary:
                self._drop_worker()  # such an error may stay with the context
        except WorkerDied as error:
            self._checks.failed(name, f"{error.summary}: so would a server that runs it", Evidence.JUDGED)
            self._drop_worker()
        except WorkerError as error:
            blame_nobody_for_memory(self._scope.judge, error.summary)
            self._fail(name, error.summary, Evidence.REPORTED if isinstance(error, WorkerRaised) else Evidence.JUDGED)
            self._drop_worker()
        else:
            if seen.failure:
                self._fail(name, seen.failure, seen.evidence)
            else:
                self._checks.passed(name, seen.note)
        self.seconds[name] = now() - start

    def _fail(self, name: str, what: str, evidence: Evidence) -> None:
        self._checks.failed(name, f"{what.rstrip('.')}: {_CONSEQUENCES[name]}", evidence)

    def _note_state(self, rig: Rig) -> None:
        if rig.loaded:
            self._fail("global_state", f"loading it changed {rig.loaded}", Evidence.REPORTED)
        elif rig.called:
            self._fail("global_state", f"calling it changed {rig.called}", Evidence.REPORTED)
        else:
            self._checks.passed("global_state", "nothing that was looked at differs after loading and after the first calls")

    def _seen(self, name: str, check: Callable[[Rig], str], rig: Rig) -> Finding:
        backend = "inductor" if self._scope.kind == "cuda" else "aot_eager"
        return Finding(check(rig), note=f"with the backend {backend}" if name == "opaque_graph" else "")

    def _swept(self, look: Callable[[Sweep], Finding], rig: Rig) -> Finding:
        if self._sweep is None:
            self._sweep = Sweep(rig)
        return look(self._sweep)

    def _drop_worker(self) -> None:
        if self._sweep is not None:
            self._sweep.close()
        if self._rig is not None:
            self.lost = self.lost or (self._worker is not None and self._rig.session is self._worker)
            self._rig.close()

    def close(self) -> None:
        """End the worker, also one that is still opening, but not one that was given; free memory. Idempotent."""
        if self._opening is not None:
            if not self._opening.done() and self._rig is not None and self._rig.session is not None:
                abort(self._rig.session)
            with contextlib.suppress(Exception):
                self._opening.result()
        self._thread.shutdown()
        if self._rig is not None and self._rig.session is self._worker:
            self._rig.session = None
        self._drop_worker()
        self._rig = self._sweep = None
