"""Turn an artefact into a callable entry."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

from ..protocol import Load
from .ahead import Recorder, prepare_ahead_of_time

_RECOMPILE_LIMIT = 64


class Entry(NamedTuple):
    """A loaded submission or baseline."""

    call: Callable[..., Any]
    prepare: Callable[..., Any] | None
    plan: Callable[..., Any] | None
    native: bool
    """Bound through tvm-ffi: takes tvm-ffi tensors and the stream from the environment."""
    recorder: Recorder | None = None
    """Collects kernels that are compiled and not run."""


def load(request: Load) -> Entry:
    """Load the artefact of a `Load` request.

    Raises:
        Exception: Whatever the module raises while it is imported.
    """
    if request.language != "python":
        import tvm_ffi

        library = tvm_ffi.load_module(request.path)
        return Entry(library.get_function(request.entry), None, None, True)
    recorder = prepare_ahead_of_time() if request.ahead else None
    if request.interpret:
        os.environ["TRITON_INTERPRET"] = "1"
        from .interpret import prepare_interpreter

        prepare_interpreter()
    module = _import(request.path)
    call = getattr(module, request.entry)
    if request.compile:
        import torch._inductor.compile_fx

        torch._dynamo.config.recompile_limit = _RECOMPILE_LIMIT
        torch._dynamo.config.accumulated_recompile_limit = 4 * _RECOMPILE_LIMIT
        call = torch.compile(call, dynamic=False)
    prepare = module.prepare if request.has_prepare else None
    plan = module.plan if request.has_plan else None
    return Entry(call, prepare, plan, False, recorder)


def _import(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("submission", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["submission"] = module
    spec.loader.exec_module(module)
    return module
