"""Inner operations: what a submission may replace in a layer (L3) or an end-to-end program (L4).

The program is one of the task's baselines: a Python module whose entry calls the ops by their names, as functions of that module. A
submission defines one op or several. The worker runs the same module with those functions in place of its own, so that everything else
(verification, gate, graphs, clock) sees the entry of an ordinary task, and the score is the time of the whole.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import msgspec

from ._syntax import parse_module
from .signature import Arg, Role, TaskError

if TYPE_CHECKING:
    import torch

    from .task import Task, Value

_programs: dict[Path, ModuleType] = {}


class Op(msgspec.Struct, frozen=True):
    """One operation that the program calls.

    Attributes:
        name: Of the function, in the program and in a submission.
        semantics: Exact definition, as the prompt states it.
        signature: Its arguments in order. Shapes name sizes of the task's workloads, or others that the semantics explain: they are for
            readers, the program decides what it passes.
    """

    name: str
    semantics: str
    signature: tuple[Arg, ...]

    @property
    def arguments(self) -> tuple[str, ...]:
        """Names in order."""
        return tuple(arg.name for arg in self.signature)


_SCALARS = {"float": "float", "int": "SymInt", "bool": "bool"}
"""As torch infers them from annotations; a SymInt may be dynamic inside a compiled graph."""


def schema_of(name: str, signature: tuple[Arg, ...]) -> str:
    """The torch.library schema of a function: outputs and in-out arguments mutated, numbers typed, nothing returned.

    For example ``rms_norm(Tensor(a0!) out, Tensor input, Tensor weight, float epsilon) -> ()``.
    """
    arguments = [_declared(arg, place) for place, arg in enumerate(signature) if arg.role is not Role.COMM]
    return f"{name}({', '.join(arguments)}) -> ()"


def _declared(arg: Arg, place: int) -> str:
    if arg.role is Role.SCALAR:
        return f"{_SCALARS[arg.dtype]} {arg.name}"
    if arg.role in (Role.OUTPUT, Role.INOUT):
        return f"Tensor(a{place}!) {arg.name}"
    return f"Tensor {arg.name}"


def program_helpers(task: Task) -> tuple[str, ...]:
    """Which of ``plan`` and ``prepare`` the program defines."""
    found = {node.name for node in parse_module(program_source(task)).body if isinstance(node, ast.FunctionDef)}
    return tuple(name for name in ("plan", "prepare") if name in found)


def program_source(task: Task) -> str:
    """Text of the module that runs around a submission's ops."""
    return (task.folder / "baselines" / task.program).read_text()


def load_program(task: Task) -> ModuleType:
    """The program as a module of its own, in this process: for its tables, and to run it as a reference."""
    path = task.folder / "baselines" / task.program
    if path not in _programs:
        module = ModuleType(f"program_of_{task.folder.name}")
        exec(compile(path.read_text(), str(path), "exec"), module.__dict__)
        _programs[path] = module
    return _programs[path]


def reference(task: Task, args: Mapping[str, Value], **shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """What the program gives in float64, by output: an oracle, where its wiring is the definition.

    Its ops must be right, and must follow the dtype of their arguments.

    Args:
        task: Without in-out arguments.
        args: All arguments but the outputs.
        shapes: Of the outputs, by name.
    """
    import torch

    given = {
        name: value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value for name, value in args.items()
    }
    device = next(value.device for value in given.values() if isinstance(value, torch.Tensor))
    kinds = {arg.name: getattr(torch, arg.dtype, torch.float64) for arg in task.outputs}
    wide = {name: torch.float64 if kind.is_floating_point else kind for name, kind in kinds.items()}
    outputs = {name: torch.empty(shape, dtype=wide[name], device=device) for name, shape in shapes.items()}
    getattr(load_program(task), task.entry)(**given, **outputs)
    return outputs


def check_program(task: Task) -> None:
    """Make sure that the program defines the entry and every op with the arguments that the task states.

    Raises:
        TaskError: It does not; the message says what is missing.
    """
    path = task.folder / "baselines" / task.program
    if not path.is_file():
        raise TaskError(f"task {task.folder.name!r} has ops, so it needs the program baselines/{task.program}, which does not exist")
    found = {node.name: node.args for node in parse_module(path.read_text()).body if isinstance(node, ast.FunctionDef)}
    wanted = {task.entry: tuple(arg.name for arg in task.entry_signature), **{op.name: op.arguments for op in task.ops}}
    for name, arguments in wanted.items():
        given = tuple(arg.arg for arg in found[name].args) if name in found else None
        if given != arguments:
            came = f"{name}({', '.join(given)})" if given is not None else "no such function"
            raise TaskError(f"task {task.folder.name!r}: expected {name}({', '.join(arguments)}) in {path.name}, found {came}")
