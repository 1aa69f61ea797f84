"""Shapes with indices beyond 2^31: one call on buffers of many gigabytes, judged at a few places.

Only buffers that large show an index that was computed in 32 bits. Most of their values repeat a block (`recipes.HUGE`), there is one
call and one poison, and the oracle is computed where it is cheap: as it is, or along the size that the workload names as ``sampled``,
at the first and last indices, on both sides of where an argument passes 2^31 elements, and at some random ones.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from ..device import Arena, DeviceError
from ..protocol import TensorRef
from ..task import Arg, Role, Task, Workload, strides_of
from ..types import Regime
from .canaries import fill_canary
from .cases import Case, completed, derive_seed, make_case
from .compare import Comparison
from .layout import GUARD, Layout, Slot, extent_of, part_of, plan_layout, view_of
from .scope import Scope
from .verify import compare_output, write_slot

if TYPE_CHECKING:
    from ..task import Value
    from .session import WorkerSession

LIMIT = 1 << 31
_RANDOM_PLACES = 8
_SPARE_BYTES = 6 << 30
"""Device memory that is left to the worker, the oracle and torch."""


def verify_overflow(scope: Scope, session: WorkerSession) -> None:
    """Run the task's overflow shapes on this device and note the check; where that is not done, say why. Detaches all arenas.

    Raises:
        WorkerError: The submission raised, died or hung.
    """
    workloads, checks = scope.task.overflow_workloads(scope.kind), scope.checks
    if not workloads:
        if scope.kind == "cuda":
            checks.waive("overflow_sizes", "the task has no such shape")
        return
    if not scope.effort.all_public or scope.interpreted:
        checks.waive("overflow_sizes", "not part of a quick evaluation")
        return
    for index, workload in enumerate(workloads):
        seed = derive_seed(scope.seed, "overflow", index)
        try:
            failure = _verify(scope, session, workload, seed)
        except DeviceError as error:
            checks.waive("overflow_sizes", f"{workload.name} does not fit this device's memory: {str(error).splitlines()[0]}")
            continue
        if failure:
            checks.failed("overflow_sizes", failure)
        else:
            checks.passed("overflow_sizes", _describe(workload))


def _verify(scope: Scope, session: WorkerSession, workload: Workload, seed: int) -> str:
    """Why one shape is wrong, or an empty string."""
    task, device = scope.task, scope.judge.device
    session.forget()
    scalars = {arg.name: 0 for arg in task.signature if arg.role is Role.SCALAR}
    _require(scope, 2 * plan_layout(task, completed(task, workload, Regime.REALISTIC), [scalars]).size)
    case = make_case(task, workload, Regime.REALISTIC, seed, device.torch_device, oracle=False)
    layout = plan_layout(task, case.workload, [case.args], seed)
    arena = device.allocate(layout.size, task.ranks)
    try:
        session.attach(arena)
        guards = _write(task, case, layout, arena, seed)
        device.synchronize()
        session.bind([layout.slots[0].arguments])
        session.setup([0], scope.call_seconds)
        session.run([0], scope.call_seconds)
        return _changed(layout, arena, guards) or _wrong(task, case, layout, arena, random.Random(seed))
    finally:
        session.forget()
        arena.close()


def _require(scope: Scope, nbytes: int) -> None:
    """Raise a `DeviceError` if a GPU has no room for that much: the judge's arguments, and the arena."""
    if scope.kind == "cuda":
        torch.cuda.empty_cache()
        free = torch.cuda.mem_get_info()[0]
        if free < nbytes + _SPARE_BYTES:
            raise DeviceError(f"{(nbytes + _SPARE_BYTES) / 1e9:.0f} GB are needed, {free / 1e9:.0f} GB are free")


def _write(task: Task, case: Case, layout: Layout, arena: Arena, seed: int) -> torch.Tensor:
    """Put the arguments in place; returns the guard bytes of all buffers."""
    slot = layout.slots[0]
    for ref in slot.refs.values():
        for guard in _guards(ref, arena):
            fill_canary(guard, 0, seed)
    write_slot(arena.view, task, slot, case.args, 0, {})
    return _all_guards(slot, arena)


def _guards(ref: TensorRef, arena: Arena) -> tuple[torch.Tensor, torch.Tensor]:
    end = ref.offset + extent_of(ref)
    memory = part_of(arena.view, ref.rank)
    return memory[ref.offset - GUARD : ref.offset], memory[end : end + GUARD]


def _all_guards(slot: Slot, arena: Arena) -> torch.Tensor:
    return torch.cat([guard for ref in slot.refs.values() for guard in _guards(ref, arena)])


def _changed(layout: Layout, arena: Arena, guards: torch.Tensor) -> str:
    return "" if torch.equal(_all_guards(layout.slots[0], arena), guards) else "bytes beside a buffer changed"


def _wrong(task: Task, case: Case, layout: Layout, arena: Arena, rng: random.Random) -> str:
    refs = layout.slots[0].refs
    outputs = {arg.name: view_of(arena.view, refs[arg.name]) for arg in task.outputs}
    args: Mapping[str, Value] = case.args
    symbol = case.workload.sampled
    if symbol:
        places = torch.tensor(_places(task, case.workload, symbol, rng), device=arena.view.device)
        args = {arg.name: _sampled(arg, args[arg.name], symbol, places) for arg in task.signature if arg.role is not Role.OUTPUT}
        outputs = {arg.name: _picked(arg, outputs[arg.name], symbol, places) for arg in task.outputs}
    small = case._replace(args=dict(args), expected=task.oracle(args))
    for name, actual in outputs.items():
        result: Comparison = compare_output(task, small, name, actual.contiguous())
        if not result.ok:
            return f"{name}: {result.describe()} on {_describe(case.workload)}"
    return ""


def _places(task: Task, workload: Workload, symbol: str, rng: random.Random) -> list[int]:
    """Indices along a size at which the oracle is computed."""
    count = workload.sizes[symbol]
    places = {0, 1, count - 2, count - 1, *(rng.randrange(count) for _ in range(_RANDOM_PLACES))}
    for arg in task.signature:
        for stride, dimension in zip(strides_of(arg, workload.sizes), arg.shape, strict=True):
            if dimension == symbol:
                places |= {LIMIT // stride + step for step in (-1, 0, 1)}
    return sorted(place for place in places if 0 <= place < count)


def _sampled(arg: Arg, value: Value, symbol: str, places: torch.Tensor) -> Value:
    return _picked(arg, value, symbol, places) if isinstance(value, torch.Tensor) else value


def _picked(arg: Arg, value: torch.Tensor, symbol: str, places: torch.Tensor) -> torch.Tensor:
    """The chosen indices of every dimension of that size."""
    for dimension, extent in enumerate(arg.shape):
        if extent == symbol:
            value = value.index_select(dimension, places)
    return value


def _describe(workload: Workload) -> str:
    sizes = ", ".join(f"{name}={value}" for name, value in workload.sizes.items())
    return f"{workload.name} ({sizes}; {workload.dtype})"
