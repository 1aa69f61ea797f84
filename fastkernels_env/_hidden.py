"""Hidden workloads: sizes around the public ones, drawn anew for every evaluation."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from .signature import TaskError, dtype_of, shape_of
from .statements import Workload

if TYPE_CHECKING:
    from .task import Task

TILES = (16, 32, 64, 128, 256)
"""Tile sizes that kernels use: hidden sizes lie beside multiples of them half of the time."""
_MOST_DRAWS = 100
"""Draws after which hidden sizes that meet what a task leaves out are no accident."""
ITEM_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
"""By dtype; others are taken for bytes."""


def draw_hidden(task: Task, device: str, rng: random.Random, count: int) -> list[Workload]:
    """See `Task.hidden_workloads`."""
    public = task.workloads(device)
    bases = [base for _ in range(0, count, len(public)) for base in rng.sample(public, len(public))]
    varied = task.place_variants(device, rng, count)
    return [_hidden(task, device, rng, base, index, varied.get(index, {})) for index, base in enumerate(bases[:count])]


def draw_apart(task: Task, device: str, rng: random.Random, count: int) -> list[Workload]:
    """`Task.hidden_workloads`, none of which has the shape of a public workload that a confined task leaves out.

    Raises:
        TaskError: There is no room for others.
    """
    left_out = {shape_key(task, workload) for workload in task.left_out(device)}
    for _ in range(_MOST_DRAWS):
        drawn = task.hidden_workloads(device, rng, count)
        if left_out.isdisjoint(shape_key(task, workload) for workload in drawn):
            return drawn
    raise TaskError(f"task {task.name!r}: hidden sizes keep meeting those of workloads that are left out; widen ragged[{device!r}]")


def shape_key(task: Task, workload: Workload) -> tuple[object, ...]:
    """Equal for workloads of one dtype and one shape, however far apart their rows lie and their values are drawn."""
    strides = {arg.row_stride for arg in task.signature}
    sizes = task.complete(workload.sizes)
    return workload.dtype, *sorted((name, size) for name, size in sizes.items() if name not in strides)


def place_variants(variants: Sequence[Mapping[str, int]], rng: random.Random, count: int) -> dict[int, Mapping[str, int]]:
    """See `Task.place_variants`."""
    if not variants:
        return {}
    places = [first + rng.randrange(2) for first in range(0, count, 2)]
    order = [variant for _ in range(0, len(places), len(variants)) for variant in rng.sample(variants, len(variants))]
    return dict(zip(places, order, strict=False))


def _hidden(task: Task, device: str, rng: random.Random, base: Workload, index: int, variant: Mapping[str, int]) -> Workload:
    draw = _edge if index % 2 == 0 else _inside
    ragged = {symbol: draw(rng, low, high) for symbol, (low, high) in task.ragged[device].items()}
    sizes = {**base.sizes, **ragged, **variant}
    _restride(task, sizes, base, rng)
    return msgspec.structs.replace(base, name=f"hidden-{index + 1}", sizes=sizes, count=0, smoke=False)


def _restride(task: Task, sizes: dict[str, int], base: Workload, rng: random.Random) -> None:
    """Draw the distances between rows anew: none, the base's own, or any that keeps the alignment."""
    for symbol in sorted({arg.row_stride for arg in task.signature if arg.row_stride}):
        sizes.pop(symbol, None)
        complete = task.complete(sizes)
        strided = [arg for arg in task.signature if arg.row_stride == symbol]
        width = max(math.prod(shape_of(arg, complete)[1:]) for arg in strided)
        unit = max(task.alignment // min(ITEM_BYTES.get(dtype_of(arg, base), 1) for arg in strided), 1)
        kind = rng.randrange(3)
        if kind == 1 and base.sizes.get(symbol, 0) >= width:
            sizes[symbol] = base.sizes[symbol]
        elif kind:
            sizes[symbol] = (-(-width // unit) + rng.choice((1, 2, 7, 32, rng.randint(1, 200)))) * unit


def _inside(rng: random.Random, low: int, high: int) -> int:
    return rng.randint(low, high)


def _edge(rng: random.Random, low: int, high: int) -> int:
    """A size where kernels break: the ends of the range, beside a power of two, beside a multiple of a tile."""
    tile = rng.choice(TILES)
    power, multiple = 1 << rng.randint(0, max(high.bit_length() - 1, 0)), tile * rng.randint(1, max(high // tile, 1))
    beside = rng.choice((power, multiple)) + rng.choice((-1, 0, 1))
    return min(max(rng.choice((low, low + 1, low + 2, high, beside, beside, beside)), low), high)
