"""The torch.library schema of a task's entry."""

from __future__ import annotations

from ..task import Arg, Role, Task

_SCALARS = {"float": "float", "int": "SymInt", "bool": "bool"}
"""As torch infers them from annotations; a SymInt may be dynamic inside a compiled graph."""


def operator_schema(task: Task) -> str:
    """The schema: names and order of the signature, outputs and in-out arguments mutated, numbers typed, nothing returned.

    For example ``rms_norm(Tensor(a0!) out, Tensor input, Tensor weight, float epsilon) -> ()``.
    """
    arguments = [_argument(arg, place) for place, arg in enumerate(task.entry_signature) if arg.role is not Role.COMM]
    return f"{task.entry}({', '.join(arguments)}) -> ()"


def _argument(arg: Arg, place: int) -> str:
    if arg.role is Role.SCALAR:
        return f"{_SCALARS[arg.dtype]} {arg.name}"
    if arg.role in (Role.OUTPUT, Role.INOUT):
        return f"Tensor(a{place}!) {arg.name}"
    return f"Tensor {arg.name}"
