"""One verification case: inputs and expected outputs of one call, made and kept by the judge."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import torch

from ..recipes import Draw
from ..task import Role, Task, TaskError, Workload, dtype_of, shape_of
from ..types import Regime
from .errors import JudgeFault, LastingFault

if TYPE_CHECKING:
    from ..task import Value


class Case(NamedTuple):
    """Inputs by argument name and the oracle's outputs, all private to the judge.

    Attributes:
        workload: With completed sizes.
        regime: How the inputs were drawn.
        args: Values of all arguments but the outputs.
        expected: Oracle by output name, float64 or integers.
        seed: What it was drawn from; places and canaries follow from it too.
    """

    workload: Workload
    regime: Regime
    args: dict[str, Value]
    expected: dict[str, torch.Tensor]
    seed: int = 0

    def describe(self) -> str:
        """Sizes, dtype and regime."""
        sizes = ", ".join(f"{name}={value}" for name, value in self.workload.sizes.items())
        return f"{self.workload.name} ({sizes}; {self.workload.dtype}; {self.regime.value})"


def derive_seed(seed: int, *labels: object) -> int:
    """A 63-bit seed for one purpose, derived from the evaluation's."""
    digest = hashlib.sha256(repr((seed, *labels)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def completed(task: Task, workload: Workload, regime: Regime) -> Workload:
    """The workload with dependent sizes filled in; zero-length in the `EMPTY` regime."""
    sizes = {**workload.sizes, task.batch: 0} if regime is Regime.EMPTY else workload.sizes
    return msgspec.structs.replace(workload, sizes=task.complete(sizes))


def make_case(
    task: Task, workload: Workload, regime: Regime, seed: int, device: str, shared_seed: int | None = None, oracle: bool = True,
    weights: list[torch.Tensor] | None = None,
) -> Case:
    """Draw inputs and compute the oracle (unless it is not asked for). `weights`: see `Draw`.

    Raises:
        JudgeFault: The task's generator or oracle raises or returns something that does not fit its signature.
    """
    workload = completed(task, workload, regime)
    draw = Draw(seed, seed if shared_seed is None else shared_seed, regime, device, weights)
    name = task.folder.name
    try:
        args = task.inputs(workload, draw)
        expected = task.oracle(args) if oracle else {}
        _check_inputs(task, workload, args)
        if oracle:
            _check_oracle(task, workload, expected)
    except Exception as error:
        raise _fault(error, f"{workload.name} ({regime.value})", name) from error
    return Case(workload, regime, args, expected, seed)


def _fault(error: Exception, where: str, task: str) -> JudgeFault:
    """What a task's own code raised, as a fault."""
    if isinstance(error, torch.AcceleratorError):
        return JudgeFault(f"the judge lost its device while it drew inputs of {task!r} on {where}: {error}")
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
        return JudgeFault(f"the reference of task {task!r} ran out of memory on {where}: {error}")
    return LastingFault(f"task {task!r} is broken on {where}: {type(error).__name__}: {error}")


def _check_inputs(task: Task, workload: Workload, args: dict[str, Value]) -> None:
    """Whether the generator keeps the task's own signature."""
    for arg in task.signature:
        if arg.role is Role.OUTPUT:
            continue
        if arg.name not in args:
            raise TaskError(f"inputs() returns no {arg.name!r}")
        value = args[arg.name]
        if arg.role is not Role.SCALAR and isinstance(value, torch.Tensor):
            _fits(f"inputs()[{arg.name!r}]", value, shape_of(arg, workload.sizes), dtype_of(arg, workload))


def _check_oracle(task: Task, workload: Workload, expected: dict[str, torch.Tensor]) -> None:
    """Whether the oracle keeps the task's own signature."""
    for arg in task.outputs:
        if arg.name not in expected:
            raise TaskError(f"oracle() returns no {arg.name!r}")
        _fits(f"oracle()[{arg.name!r}]", expected[arg.name], shape_of(arg, workload.sizes), None)
        if expected[arg.name].is_floating_point() and expected[arg.name].dtype is not torch.float64:
            raise TaskError(f"oracle()[{arg.name!r}] must be float64, it is {expected[arg.name].dtype}")
        if arg.ties and arg.ties not in expected:
            raise TaskError(f"oracle() returns no {arg.ties!r}, the scores that {arg.name!r} names")


def _fits(what: str, value: torch.Tensor, shape: tuple[int, ...], dtype: str | None) -> None:
    if tuple(value.shape) != shape:
        raise TaskError(f"{what} must have shape {shape}, it has {tuple(value.shape)}")
    if dtype and str(value.dtype) != f"torch.{dtype}":
        raise TaskError(f"{what} must be {dtype}, it is {value.dtype}")
