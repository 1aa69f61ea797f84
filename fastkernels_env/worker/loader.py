"""Turn an artefact into a callable entry."""

from __future__ import annotations

import importlib.util
import linecache
import os
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

from ..protocol import Load
from .ahead import Recorder, prepare_ahead_of_time

_RECOMPILE_LIMIT = 64
_PROGRAM = "fastkernels_program"


class Entry(NamedTuple):
    """A loaded submission or baseline.

    Attributes:
        call: The entry.
        prepare: Repacks weights.
        plan: Digests metadata.
        native: Bound through tvm-ffi: takes tvm-ffi tensors and the stream from the environment.
        recorder: Collects kernels that are compiled and not run.
        program: The module of the entry, if the artefact defines ops that it calls.
        ops: These, by name; they take torch tensors.
        streams: Whether the ops take the stream from the environment.
    """

    call: Callable[..., Any]
    prepare: Callable[..., Any] | None
    plan: Callable[..., Any] | None
    native: bool
    recorder: Recorder | None = None
    program: ModuleType | None = None
    ops: Mapping[str, Callable[..., Any]] = {}
    streams: bool = False


def load(request: Load) -> Entry:
    """Load the artefact of a `Load` request.

    Raises:
        Exception: Whatever the module raises while it is imported.
    """
    if request.language != "python":
        import tvm_ffi

        library = tvm_ffi.load_module(request.path)
        if request.ops:
            return _around(request, {name: library.get_function(name) for name in request.ops}, streams=True)
        return Entry(library.get_function(request.entry), None, None, True)
    recorder = prepare_ahead_of_time() if request.ahead else None
    if request.interpret:
        os.environ["TRITON_INTERPRET"] = "1"
        from .interpret import prepare_interpreter

        prepare_interpreter()
    module = _import(request.path)
    if request.ops:
        return _around(request, {name: getattr(module, name) for name in request.ops}, recorder)
    call = getattr(module, request.entry)
    if request.compile:
        import torch._inductor.compile_fx

        torch._dynamo.config.recompile_limit = _RECOMPILE_LIMIT
        torch._dynamo.config.accumulated_recompile_limit = 4 * _RECOMPILE_LIMIT
        if parts := compiled_parts(module):
            vars(module).update({name: torch.compile(getattr(module, name), dynamic=False) for name in parts})
        else:
            call = torch.compile(call, dynamic=False)
    prepare = module.prepare if request.has_prepare else None
    plan = module.plan if request.has_plan else None
    return Entry(call, prepare, plan, False, recorder)


def compiled_parts(program: ModuleType) -> tuple[str, ...]:
    """Functions of a program that a stack compiles one by one, such as the step of a loop; none: it compiles the entry."""
    return tuple(getattr(program, "COMPILED", ()))


def _around(request: Load, ops: Mapping[str, Callable[..., Any]], recorder: Recorder | None = None, streams: bool = False) -> Entry:
    """The entry of the program, with these functions in place of its own of that name."""
    program = ModuleType(_PROGRAM)
    linecache.cache[f"{_PROGRAM}.py"] = (len(request.program), None, request.program.splitlines(keepends=True), f"{_PROGRAM}.py")
    sys.modules[_PROGRAM] = program
    exec(compile(request.program, f"{_PROGRAM}.py", "exec"), program.__dict__)
    vars(program).update(ops)
    plan = program.plan if request.has_plan else None
    prepare = program.prepare if request.has_prepare else None
    return Entry(getattr(program, request.entry), prepare, plan, False, recorder, program, ops, streams)


def _import(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("submission", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["submission"] = module
    spec.loader.exec_module(module)
    return module
