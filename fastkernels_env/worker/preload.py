"""The compile stack of torch, imported piece by piece while the fork server has nothing else to do.

Every worker that is forked afterwards has it, instead of spending seconds on it. No piece may start a thread or initialise CUDA: a
fork would then be of no use. For a GPU that is not taken on trust: a process of its own tries it first.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

_PIECES = (
    "sympy", "torch.fx.experimental.symbolic_shapes", "torch._prims", "torch._decomp.decompositions", "networkx",
    "torch.distributed.tensor", "torch.distributed.fsdp", "torch.export", "torch._inductor.codecache", "torch._dynamo",
    "torch._functorch.aot_autograd", "torch._dynamo.backends.debugging", "torch._subclasses.schema_check_mode",
)
_PATTERNS = "torch._inductor.fx_passes.serialized_patterns."
_GPU_PIECES = (
    "torch._inductor.compile_fx", "torch._dynamo.repro.after_aot", "torch.export._trace", "torch._inductor.debug",
    # What Inductor and Triton would import when they first compile something.
    "torch.distributed.tensor.experimental", "sympy.combinatorics", "sympy.tensor.tensor", "torch._inductor.fx_passes.quantization",
    "torch._inductor.fx_passes.freezing_patterns", "torch._inductor.codegen.cpp_wrapper_gpu",
    "torch._inductor.codegen.cuda_combined_scheduling", "torch._inductor.codegen.halide", "torch._inductor.codegen.pallas",
    "torch._inductor.codegen.wrapper_fxir", "torch._inductor.runtime.caching", "torch._inductor.fx_passes.fuse_attention",
    *(f"{_PATTERNS}{name}" for name in ("mm_pattern", "bmm_pattern", "addmm_pattern", *(f"_sfdp_pattern_{n}" for n in range(1, 28)))),
    "torch._inductor.fx_passes.mkldnn_fusion", "torch._inductor.choices", "torch._inductor.codegen.segmented_tree",
    "torch._inductor.codegen.memory_planning", "torch._inductor.cudagraph_trees", "torch._dynamo.backends.inductor",
    "triton.experimental.gluon", "triton.compiler.code_generator",
)
_KEYS = (("triton.runtime.cache", "triton_key"), ("torch._inductor.codecache", "torch_key"))
"""Functions that read all sources of a library for the keys of its caches, and keep the answer: four tenths of a second for Triton's."""
_READ_SOURCES = "the keys of caches"
_FIRST_GRAPH = "the first graph"
"""Pieces that are no modules: this one is what Dynamo and AOTAutograd import and build when they compile something for the first time."""
_PROBE = 0
"""The number under which the trial process is kept among the workers; theirs start at 1."""
_LOOK_AGAIN = 0.1
_NVML = "PYTORCH_NVML_BASED_CUDA_CHECK"


class Preload:
    """The imports that are still to be done.

    Args:
        device: Device kind.
        living: The server's children by number; the process that tries the imports joins them.
        proved: Whether it is known already that they do no harm.
    """

    def __init__(self, device: str, living: dict[int, int], proved: bool = False) -> None:
        self._device, self._living = device, living
        self._left = list(pieces(device))
        if device == "cuda" and not proved:
            living[_PROBE] = _start_probe()

    @property
    def trial(self) -> int | None:
        """Process that tries the imports; None if there is none, or none any more."""
        return self._living.get(_PROBE)

    def step(self) -> float | None:
        """Import one piece, if that is proved to do no harm; seconds until there is more to do, None if never."""
        if self._proved():
            self._import_next()
            return 0.0
        return _LOOK_AGAIN if self._left else None

    def finish(self) -> None:
        """Import all that is left, unless it is not proved yet that this does no harm."""
        while self._left and self._proved():
            self._import_next()

    def _import_next(self) -> None:
        import_pieces(self._device, [self._left.pop(0)])
        gc.freeze()

    def _proved(self) -> bool:
        pid = self._living.get(_PROBE)
        if pid is None:
            return bool(self._left)
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            del self._living[_PROBE]
            if status:
                self._left = []
        return bool(done and self._left)


def pieces(device: str) -> tuple[str, ...]:
    """Modules that the gate uses on a device kind, in an order in which no single import takes long."""
    return _PIECES + ((*_GPU_PIECES, _READ_SOURCES) if device == "cuda" else (_FIRST_GRAPH,))  # on a GPU Dynamo initialises CUDA


def import_pieces(device: str, names: Sequence[str]) -> None:
    """Import modules of the compile stack; those that this version of torch lacks are left out."""
    with _careful(device):
        for name in names:
            if name == _FIRST_GRAPH:
                _compile_something()
            elif name == _READ_SOURCES:
                _read_sources()
            else:
                with contextlib.suppress(ModuleNotFoundError):
                    importlib.import_module(name)


def _read_sources() -> None:
    for module, function in _KEYS:
        with contextlib.suppress(ModuleNotFoundError, AttributeError):  # another version has it elsewhere, and reads them when it must
            getattr(importlib.import_module(module), function)()


@functools.cache
def _compile_something() -> None:
    """Compile a graph on a CPU, once a process and its forks."""
    from torch._dynamo.backends.debugging import aot_eager

    compile_graph("cpu", aot_eager)


def compile_graph(device: str, backend: Any) -> None:
    """Compile a graph around an operator that mutates an argument: whatever the compile stack does when it is first used is then done."""
    import torch

    library = torch.library.Library("fastkernels_preload", "DEF")  # type: ignore[no-untyped-call]
    library.define("nothing(Tensor(a0!) out, Tensor input) -> ()")  # type: ignore[no-untyped-call]
    library.impl("nothing", lambda *_: None, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake("fastkernels_preload::nothing", lambda *_: None, lib=library)

    def graph(out: torch.Tensor, given: torch.Tensor) -> None:
        inner = torch.empty_like(out)
        torch.ops.fastkernels_preload.nothing.default(inner, given * 2.0)
        out.copy_(inner * 2.0)

    values = torch.ones(2, 2, 3, device=device)
    torch.compile(graph, fullgraph=True, dynamic=True, backend=backend)(*values)
    torch._dynamo.reset()


def _start_probe() -> int:
    """Start a process that imports the pieces for a GPU, forks, and tries CUDA in the child: its id. It ends with 0 if that works."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            import_pieces("cuda", pieces("cuda"))
            child = os.fork()
            if child == 0:
                os._exit(_try_cuda())
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        finally:
            os._exit(status)
    return pid


def _try_cuda() -> int:
    status = 1
    with contextlib.suppress(BaseException):
        import torch

        torch.zeros(1, device="cuda").add_(1).item()
        status = 0
    return status


@contextlib.contextmanager
def _careful(device: str) -> Iterator[None]:
    """Import without looking for garbage, which imports do not make, and without what would spoil forked workers.

    A question to the CUDA runtime takes CUDA away from them: NVML answers it instead, and is shut down again. Triton, once imported,
    no longer takes up its interpreter, which is all that a CPU's workers want of it.
    """
    before = os.environ.get(_NVML)
    os.environ[_NVML] = "1"
    hidden = device == "cpu" and "triton" not in sys.modules
    if hidden:
        sys.modules["triton"] = None  # type: ignore[assignment]
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        if hidden:
            del sys.modules["triton"]
        del os.environ[_NVML]
        if before is not None:
            os.environ[_NVML] = before
        if device == "cuda":
            _shut_nvml()


def _shut_nvml() -> None:
    """End NVML in this process: a worker would believe it ready, but it has closed the descriptors, and then counts no devices."""
    with contextlib.suppress(OSError):
        library = ctypes.CDLL("libnvidia-ml.so.1")
        while library.nvmlShutdown() == 0:
            pass
