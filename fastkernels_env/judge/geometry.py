"""How large the ring of a workload is, and where in it the buffers of an entry lie."""

from __future__ import annotations

import math
from typing import NamedTuple

from ..device import Device
from ..protocol import TensorRef
from ..task import Cost, Role, Task, Workload
from ..types import Peaks
from .layout import ALIGNMENT, GUARD, extent_of, tensor_ref

MIN_CALLS = 8
MAX_CALLS = 256
SPARE = 2
"""Slots beyond the 2K, for the calls before a block: one that wakes the worker and one that is timed alone."""


class Geometry(NamedTuple):
    """Sizes of a ring.

    Attributes:
        calls: K. The ring has 2K slots for blocks, and `SPARE` more.
        weights: Copies of the weights; slot s uses copy ``s % weights``.
        entry: Layout of one slot without weights, relative to its start.
        stride: Bytes from slot to slot.
        weight_layout: Layout of one copy of the weights.
        weight_stride: Bytes from copy to copy.
    """

    calls: int
    weights: int
    entry: dict[str, TensorRef]
    stride: int
    weight_layout: dict[str, TensorRef]
    weight_stride: int

    @property
    def slots(self) -> int:
        """2K."""
        return 2 * self.calls

    @property
    def entries(self) -> int:
        """All slots, the spare ones last."""
        return self.slots + SPARE

    @property
    def size(self) -> int:
        """Bytes of the arena, for each rank."""
        return self.entries * self.stride + self.weights * self.weight_stride


def plan_ring(
    task: Task, workload: Workload, cost: Cost, peaks: Peaks, device: Device, caches: float = 2.0, block: float = 1.0
) -> Geometry:
    """Choose K so that K entries exceed `caches` times the cache and take `block` times what the clock wants, within the memory limit."""
    ring_bytes = caches * device.cache_bytes
    entry, stride = _block(task, workload, weights=False)
    weight_layout, weight_stride = _block(task, workload, weights=True)
    flops = peaks.flops_per_s.get(workload.dtype, max(peaks.flops_per_s.values(), default=1e12))
    call_seconds = max(cost.bytes / peaks.copy_bytes_per_s, cost.flops / flops, 1e-6)
    by_cache = math.ceil(ring_bytes / max(cost.bytes, 1))
    by_clock = math.ceil(block * device.target_seconds / call_seconds)
    by_memory = device.ring_limit // (2 * stride * task.ranks)
    calls = max(min(max(by_cache, by_clock, MIN_CALLS), MAX_CALLS, by_memory), 2)
    weights = min(math.ceil(ring_bytes / max(weight_stride, 1)) + 1, max(calls // 2, 1)) if weight_layout else 1
    return Geometry(calls, weights, entry, stride, weight_layout, weight_stride)


def _block(task: Task, workload: Workload, weights: bool) -> tuple[dict[str, TensorRef], int]:
    refs: dict[str, TensorRef] = {}
    ends = [0] * task.ranks
    for arg in task.signature:
        if arg.role is not Role.SCALAR and (arg.role is Role.WEIGHT) == weights:
            refs[arg.name] = tensor_ref(arg, workload, ends[arg.rank] + GUARD)
            ends[arg.rank] = refs[arg.name].offset + extent_of(refs[arg.name]) + GUARD
    return refs, -(-max(ends) // ALIGNMENT) * ALIGNMENT
