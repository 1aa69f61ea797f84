"""The worker's side of a session: arenas, bound calls, armed sequences, the clock."""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import struct
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..protocol import (
    ArgValue,
    Arm,
    Attach,
    Bind,
    Capture,
    Changes,
    Clock,
    Detach,
    Done,
    Join,
    Load,
    Register,
    Reply,
    Run,
    Setup,
    Step,
    TensorRef,
    Trace,
    Watch,
)
from .gate import Stack
from .graphs import Graphs
from .loader import Entry, load
from .memory import Arena

if TYPE_CHECKING:
    from .comm import Comm

STOP = 0xFFFF
"""Clock command that ends the clock loop."""
_WORD = struct.Struct("<Q")
_ASKS_NVML = re.compile(r"NVML_SUCCESS == DriverAPI::get\(\)->nvmlInit\w*\(\) INTERNAL ASSERT FAILED.*")
"""How torch fails to say that memory is out: it asks NVML who holds it, and NVML tells a confined process nothing."""


class Session:
    """State of one worker. `handle` serves one request; it raises what the submission raises.

    Args:
        device: ``cpu`` or ``cuda``.
        end: Event descriptor on which the judge starts a sequence, and this worker answers (CPU).
        page: Descriptor of the shared clock page (CUDA).
        rank: Number of this process among the ranks of the worker.
    """

    def __init__(self, device: str, end: int, page: int, rank: int = 0) -> None:
        self.device, self.go, self.done, self.rank = device, end, end, rank
        self.page = mmap.mmap(page, mmap.PAGESIZE)
        self.comm: Comm | None = None
        self.cores = os.sched_getaffinity(0)
        self.entry: Entry | None = None
        self.roles: tuple[str, ...] = ()
        self.arenas: dict[int, Arena] = {}
        self.tensors: list[list[Any]] = []
        self.calls: list[list[Any]] = []
        self.extras: dict[int, dict[str, Any]] = {}
        self.armed: list[Callable[[], None]] = []
        self.graphs = Graphs(self._run_one)
        self.stack = Stack(self)

    def handle(self, request: Any, fds: list[int]) -> Reply:
        """Serve one request and say how long it took."""
        start = time.perf_counter()
        detail, data = "", {}
        os.sched_setaffinity(0, self.cores)  # OpenMP binds the main thread too, and threads that it starts would all inherit one core
        match request:
            case Join():
                self._join(request.size, fds)
            case Load():
                if self.device == "cuda":
                    from .. import _cuda

                    _cuda.initialise()
                self.entry, self.roles = load(request), tuple(role for role in request.roles if role != "comm")
            case Attach():
                self.arenas[request.arena] = Arena(self.device, fds[0], request.size)
            case Detach():
                self._detach()
            case Bind():
                self._bind(request.calls)
            case Setup():
                data = self.setup(request.calls)
            case Run():
                with self.stream():
                    self.run(request.calls)
                self.synchronize()
                if self.entry is not None and self.entry.recorder is not None:
                    data = self.entry.recorder.resources()
            case Capture():
                detail = self._capture(request.calls)
            case Arm():
                detail = self._arm(request)
            case Clock():
                self._obey_clock()
            case Trace():
                data = self._trace(request.calls)
            case Watch() | Changes() | Register() | Step():
                return self.stack.handle(request)
        return Done(time.perf_counter() - start, detail, data)

    def _join(self, size: int, fds: list[int]) -> None:
        if self.device == "cuda":
            torch.cuda.set_device(self.rank)
        from .comm import Comm

        self.comm = Comm(self.device, self.rank, [Arena(self.device, fd, size) for fd in fds])

    def describe(self, error: BaseException) -> str:
        """A traceback without this module's own frames, cut to what a reader needs."""
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/fastkernels_env/worker/" not in frame.filename]
        text = "".join(traceback.format_list(frames[-6:])) + "".join(traceback.format_exception_only(error))
        return _ASKS_NVML.sub("out of the device's memory", text)[-6000:]

    def _bind(self, calls: list[list[ArgValue]]) -> None:
        assert self.entry
        self.extras, self.armed = {}, []
        self.graphs.clear()
        self.tensors = [
            [self.arenas[value.arena].tensor(value) if isinstance(value, TensorRef) else value for value in call] for call in calls
        ]
        self.calls = [self.as_entry_takes(call) for call in self.tensors]

    def as_entry_takes(self, values: Sequence[Any]) -> list[Any]:
        """Arguments as the entry takes them: native code gets tvm-ffi's tensors in place of torch's; ranks get what joins them."""
        if self.entry is None or not self.entry.native:
            return self.joined(values)
        import tvm_ffi

        joined = [*values, self.comm.native()] if self.comm else values
        return [tvm_ffi.from_dlpack(value) if isinstance(value, torch.Tensor) else value for value in joined]

    def joined(self, values: Sequence[Any]) -> list[Any]:
        """Arguments of Python code: with `Comm` as the last one, if there are several ranks."""
        return [*values, self.comm] if self.comm else list(values)

    def _detach(self) -> None:
        self.armed, self.tensors, self.calls, self.extras = [], [], [], {}
        self.synchronize()
        self.graphs.clear()
        for arena in self.arenas.values():
            arena.close()
        self.arenas = {}
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def setup(self, calls: list[int]) -> dict[str, float]:
        """Run `prepare` and `plan`; microseconds per call, by name."""
        assert self.entry
        spent: dict[str, float] = {}
        self.armed = []
        self.graphs.clear()
        for keyword, function, role in (("prepared", self.entry.prepare, "weight"), ("plan", self.entry.plan, "metadata")):
            if function is None:
                continue
            start = time.perf_counter()
            made: dict[tuple[int, ...], Any] = {}
            for index in calls:
                seen = self._addresses(index, role)
                if seen not in made:
                    arguments = [self._visible(value, kind, role) for value, kind in zip(self.tensors[index], self.roles, strict=True)]
                    made[seen] = function(*self.joined(arguments))
                self.extras.setdefault(index, {})[keyword] = made[seen]
            self.synchronize()
            spent[function.__name__] = (time.perf_counter() - start) * 1e6 / max(len(made), 1)
        return spent

    def _addresses(self, index: int, role: str) -> tuple[int, ...]:
        """Where a call's tensors of one role lie: calls that share their weights share what was prepared from them."""
        return tuple(value.data_ptr() for value, kind in zip(self.tensors[index], self.roles, strict=True) if kind == role)

    @staticmethod
    def _visible(value: Any, kind: str, role: str) -> Any:
        """Tensors of other roles arrive without data, so that nothing can be computed ahead from them."""
        return value if not isinstance(value, torch.Tensor) or kind == role else value.to("meta")

    def run(self, calls: list[int]) -> None:
        """Run calls in order, without waiting for them."""
        assert self.entry
        function = self.entry.call
        if self.extras:
            for index in calls:
                function(*self.calls[index], **self.extras[index])
        else:
            for index in calls:
                function(*self.calls[index])

    @contextlib.contextmanager
    def stream(self) -> Iterator[None]:
        """Hand torch's current stream to native code."""
        if self.device == "cuda" and self.entry is not None and (self.entry.native or self.entry.streams):
            import tvm_ffi

            with tvm_ffi.use_torch_stream():
                yield
        else:
            yield

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def _run_one(self, call: int) -> None:
        with self.stream():
            self.run([call])

    def _capture(self, calls: list[int]) -> str:
        try:
            self.graphs.capture(calls)
            return "graph"
        except Exception as error:
            return self._no_graph(error)

    def _arm(self, request: Arm) -> str:
        self.armed = []
        if request.graph:
            try:
                self.armed = self.graphs.rows(request.sequences, request.unseen)
                return "graph"
            except Exception as error:
                self.armed = [self._eager(sequence) for sequence in request.sequences]
                return self._no_graph(error)
        self.armed = [self._eager(sequence) for sequence in request.sequences]
        return "eager"

    def _no_graph(self, error: Exception) -> str:
        torch.cuda.synchronize()
        return f"eager: CUDA graph capture failed: {self.describe(error).strip().splitlines()[-1]}"

    def _eager(self, sequence: list[int]) -> Callable[[], None]:
        def run() -> None:
            with self.stream():
                self.run(sequence)

        return run

    def _obey_clock(self) -> None:
        if self.device == "cuda":
            self._obey_page()
            return
        os.eventfd_write(self.done, 1)
        while (command := os.eventfd_read(self.go)) != STOP:
            self.armed[command - 1]()
            os.eventfd_write(self.done, 1)

    def _obey_page(self) -> None:
        page, at = self.page, 2 * _WORD.size * self.rank
        _WORD.pack_into(page, at + 8, 1)
        while True:
            while not (command := _WORD.unpack_from(page, at)[0]):
                pass
            _WORD.pack_into(page, at, 0)
            if command == STOP:
                return
            self.armed[command - 1]()
            torch.cuda.synchronize()
            _WORD.pack_into(page, at + 8, 1)

    def _trace(self, calls: list[int]) -> dict[str, float]:
        """Device microseconds by kernel name over these calls."""
        from torch._C._autograd import DeviceType
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CUDA]) as profiler, self.stream():
            self.run(calls)
            torch.cuda.synchronize()
        spent: dict[str, float] = {}
        for event in profiler.events() or []:
            if event.device_type == DeviceType.CUDA:
                spent[event.name] = spent.get(event.name, 0.0) + event.self_device_time_total
        return spent
