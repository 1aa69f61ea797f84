"""A task's signature: the arguments of its entry, their roles, and the shapes that follow from a workload's sizes."""

from __future__ import annotations

import ast
import enum
import operator
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from ._syntax import parse_expression

if TYPE_CHECKING:
    from .task import Workload


class TaskError(Exception):
    """A task folder that cannot be used. The message names the task, what was expected and what came."""


class Role(enum.StrEnum):
    """What an entry may do with an argument."""

    OUTPUT = "output"
    """Written in full, never read: it arrives poisoned."""
    INOUT = "inout"
    """Read and mutated in place."""
    INPUT = "input"
    WEIGHT = "weight"
    """A parameter: constant between calls; `prepare` may repack it."""
    METADATA = "metadata"
    """Page tables, routing counts, positions: `plan` may digest it on the host."""
    SCALAR = "scalar"
    COMM = "comm"
    """What the ranks of a multi-GPU task reach each other through; see `ranked`."""


class Arg(msgspec.Struct, frozen=True):
    """One argument of the entry, in order.

    ``shape`` holds integers and expressions over the workload's sizes (``"2*I"``, ``"B+1"``). ``dtype`` is a torch dtype name, or
    ``"dtype"`` for the workload's own; for scalars ``"float"``, ``"int"`` or ``"bool"``. ``row_stride`` names the size that holds
    the distance between two rows (dimension 0) in elements; where a workload lacks it the argument is contiguous. ``ties`` makes an
    integer output a list of indices, and names the entry of the oracle that holds the score of every candidate. ``rank`` says on which
    rank of a multi-GPU task it lies.
    """

    name: str
    role: Role
    shape: tuple[str | int, ...] = ()
    dtype: str = "dtype"
    row_stride: str | None = None
    doc: str = ""
    ties: str = ""
    rank: int = 0

    @property
    def plain(self) -> str:
        """The name that the entry knows: that of an argument of one rank is `name` with the rank behind it."""
        return self.name.partition("@")[0]


def Output(
    name: str, *shape: str | int, dtype: str = "dtype", row_stride: str | None = None, doc: str = "", ties: str = ""
) -> Arg:
    """An argument that the entry writes in full."""
    return Arg(name, Role.OUTPUT, shape, dtype, row_stride, doc, ties)


def InOut(name: str, *shape: str | int, dtype: str = "dtype", row_stride: str | None = None, doc: str = "") -> Arg:
    """An argument that the entry reads and mutates."""
    return Arg(name, Role.INOUT, shape, dtype, row_stride, doc)


def Input(name: str, *shape: str | int, dtype: str = "dtype", row_stride: str | None = None, doc: str = "") -> Arg:
    """An argument that the entry only reads."""
    return Arg(name, Role.INPUT, shape, dtype, row_stride, doc)


def Weight(name: str, *shape: str | int, dtype: str = "dtype", row_stride: str | None = None, doc: str = "") -> Arg:
    """A parameter of the layer: constant between calls."""
    return Arg(name, Role.WEIGHT, shape, dtype, row_stride, doc)


def Metadata(name: str, *shape: str | int, dtype: str = "int32", doc: str = "") -> Arg:
    """Integers that describe the batch: page tables, routing, positions."""
    return Arg(name, Role.METADATA, shape, dtype, None, doc)


def Scalar(name: str, dtype: str, doc: str = "") -> Arg:
    """A host number: ``float``, ``int`` or ``bool``."""
    return Arg(name, Role.SCALAR, (), dtype, None, doc)


def Comm(name: str = "comm", doc: str = "") -> Arg:
    """The last argument of a multi-GPU entry: rank, process group and workspace (see `worker.comm.Comm`)."""
    return Arg(name, Role.COMM, (), "comm", None, doc)


_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv
}


def evaluate_size(expression: str | int, sizes: Mapping[str, int]) -> int:
    """Value of a shape expression such as ``"(q+2*kv)*d"``.

    Raises:
        TaskError: No expression, an unknown size, an operator other than ``+ - * //``, or a division by zero.
    """

    def value(node: ast.expr) -> int:
        match node:
            case ast.Constant(value=int(number)):
                return number
            case ast.Name(id=name) if name in sizes:
                return sizes[name]
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](value(left), value(right))
        raise TaskError(f"cannot evaluate {expression!r}: {ast.unparse(node)!r} is no size of {sorted(sizes)}")

    if isinstance(expression, int):
        return expression
    try:
        return value(parse_expression(expression))
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError) as error:
        raise TaskError(f"cannot evaluate {expression!r} with sizes {dict(sizes)}: {type(error).__name__}: {error}") from error


def shape_of(arg: Arg, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Concrete shape of an argument."""
    return tuple(evaluate_size(dimension, sizes) for dimension in arg.shape)


def strides_of(arg: Arg, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Concrete strides of an argument, in elements."""
    shape = shape_of(arg, sizes)
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * max(shape[axis + 1], 1)
    if arg.row_stride and arg.row_stride in sizes and shape:
        strides[0] = sizes[arg.row_stride]
    return tuple(strides)


def dtype_of(arg: Arg, workload: Workload) -> str:
    """Concrete dtype name of an argument."""
    return workload.dtype if arg.dtype == "dtype" else arg.dtype
