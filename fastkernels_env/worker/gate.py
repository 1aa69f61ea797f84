"""The worker's side of the integrate gate: calls run the ways that compile and runtime stacks run them.

A step that raises is answered with `Failed`, and the worker lives on. Whatever the answer, results are the judge's to compare: a step
leaves them in the buffers of the calls. The ways are the keys of `_WAYS`.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from ..protocol import Changes, Done, Failed, Register, Reply, Step, Watch
from . import streams
from .graphs import captured, capturing
from .operator import Operator, Operators
from .preload import compile_graph, import_pieces, pieces
from .state import State, changes, snapshot

if TYPE_CHECKING:
    from .session import Session

_Figures = dict[str, float]
_MANY = 256
"""Recompilations that Dynamo is to make rather than give up silently, so that they are counted."""


class Stack:
    """Serves the gate's requests for one worker."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._before: State = {}
        self._operator: Operator | Operators | None = None
        self._inlined: Callable[..., Any] | None = None
        self._graph: torch.cuda.CUDAGraph | None = None

    def handle(self, request: Any) -> Reply:
        """Serve one request."""
        start = time.perf_counter()
        detail, figures = "", {}
        try:
            match request:
                case Watch():
                    self._watch(request.stack)
                case Changes():
                    detail = "; ".join(changes(self._before, snapshot(self._session.device)))
                case Register():
                    ops = request.ops
                    self._operator = Operators(self._session, ops) if ops else Operator(self._session, request.schema)
                case Step():
                    figures = _WAYS[request.way](self, request.calls) or {}
                    self._session.synchronize()
        except Exception as error:
            return Failed(type(error).__name__, self._session.describe(error))
        return Done(time.perf_counter() - start, detail, figures)

    def _watch(self, stack: bool) -> None:
        if self._session.device == "cuda":
            from .. import _cuda

            _cuda.initialise()
        if stack:
            import_pieces(self._session.device, pieces(self._session.device))
            if self._session.device == "cuda":
                compile_graph("cuda", "inductor")  # it sets limits and variables when it first compiles, whoever asks it to
        self._before = snapshot(self._session.device)

    @property
    def operator(self) -> Operator | Operators:
        """What is registered."""
        assert self._operator
        return self._operator

    def _eager(self, calls: list[int]) -> None:
        with self._session.stream():
            self._session.run(calls)

    def _schema(self, calls: list[int]) -> None:
        for index in calls:
            self.operator.check_schema(index)

    def _opaque(self, calls: list[int]) -> None:
        for index in calls:
            self.operator.run_opaque(index, opaque_backend(self._session.device))

    def _inline(self, calls: list[int]) -> None:
        session = self._session
        assert session.entry
        if self._inlined is None:
            self._inlined = torch.compile(session.entry.call, fullgraph=True, backend="eager")
        for index in calls:
            self._inlined(*session.joined(session.tensors[index]), **session.extras.get(index, {}))

    def _compiled(self, calls: list[int]) -> _Figures:
        """Run the calls and count what was compiled meanwhile: variants of each Triton kernel, graphs of torch.compile."""
        torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = _MANY
        before = _count_compiled()
        self._eager(calls)
        return {name: float(count - before.get(name, 0)) for name, count in _count_compiled().items()}

    def _memory(self, calls: list[int]) -> _Figures:
        """Run the calls, give back what the process has freed, which a leak would otherwise live on for long; bytes that torch has
        handed out, and bytes of the device that are in use.
        """
        self._eager(calls)
        self._session.synchronize()
        _trim_heap()
        if self._session.device != "cuda":
            return {}
        free, total = torch.cuda.mem_get_info()
        return {"allocated": float(torch.cuda.memory_allocated()), "used": float(total - free)}

    def _capture(self, calls: list[int]) -> None:
        with capturing(), self._session.stream():
            self._graph = captured(functools.partial(self._session.run, calls), torch.cuda.CUDAGraph())

    def _replay(self, _calls: list[int]) -> None:
        assert self._graph
        self._graph.replay()

    def _side_stream(self, calls: list[int]) -> None:
        streams.run_on_side_stream(self._session, *calls)

    def _concurrent(self, calls: list[int]) -> None:
        streams.run_on_two_streams(self._session, calls)

    def _second_device(self, calls: list[int]) -> None:
        streams.run_on_second_device(self._session, *calls)


def opaque_backend(device: str) -> Any:
    """What compiles the graph around the operator. On a CPU it is functionalised and no more: Inductor would call a C++ compiler."""
    if device == "cuda":
        return "inductor"
    from torch._dynamo.backends.debugging import aot_eager

    return aot_eager  # asked for by name, torch would import every backend that there is


def _trim_heap() -> None:
    with contextlib.suppress(AttributeError):  # a C library that has no such function
        ctypes.CDLL(None).malloc_trim(0)


def _count_compiled() -> dict[str, int]:
    counts = {"torch.compile": torch._dynamo.utils.counters["stats"]["unique_graphs"]}
    if jit := sys.modules.get("triton.runtime.jit"):
        # Not `isinstance`: it asks the thing itself for its class, and a weak proxy may have lost what it stands for.
        for kernel in [thing for thing in gc.get_objects() if issubclass(type(thing), jit.JITFunction)]:
            variants = sum(len(caches[0]) for caches in kernel.device_caches.values())
            if variants:
                counts[kernel.__name__] = counts.get(kernel.__name__, 0) + variants
    return counts


_WAYS: dict[str, Callable[[Stack, list[int]], _Figures | None]] = {
    "eager": Stack._eager, "schema": Stack._schema, "opaque": Stack._opaque, "inline": Stack._inline, "compiled": Stack._compiled,
    "memory": Stack._memory, "capture": Stack._capture, "replay": Stack._replay, "side_stream": Stack._side_stream,
    "concurrent": Stack._concurrent, "second_device": Stack._second_device,
}
