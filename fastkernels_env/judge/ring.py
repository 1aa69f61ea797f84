"""The ring: 2K distinct entries of one workload, refilled before every timed block.

The judge keeps P = 2K private input sets. Slots of the ring hold the entries' buffers inside an arena at a constant stride, so that
refilling, poisoning and snapshotting are one strided operation per argument. Before every block the sets move to other slots: every
address holds new values, and the right answer at each slot is known. Weights stay where they are (they are constant between calls in
production) and are replicated only as far as defeating the cache needs.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from ..device import Arena, Device
from ..protocol import ArgValue, TensorRef
from ..task import Arg, Cost, Role, Task, Workload
from ..types import Peaks, Regime
from .cases import Case, completed, derive_seed, make_case
from .layout import ALIGNMENT, GUARD, extent_of, tensor_ref
from .verify import poison_

MIN_CALLS = 8
MAX_CALLS = 256


class Geometry(NamedTuple):
    """Sizes of a ring.

    Attributes:
        calls: K. The ring has 2K slots, and a spare one for calls that only wake the worker.
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
    def size(self) -> int:
        """Bytes of the arena."""
        return (self.slots + 1) * self.stride + self.weights * self.weight_stride


def plan_ring(task: Task, workload: Workload, cost: Cost, peaks: Peaks, device: Device, caches: float = 2.0) -> Geometry:
    """Choose K so that K entries exceed `caches` times the cache and take long enough for the clock, within the memory limit."""
    ring_bytes = caches * device.cache_bytes
    entry, stride = _block(task, workload, weights=False)
    weight_layout, weight_stride = _block(task, workload, weights=True)
    flops = peaks.flops_per_s.get(workload.dtype, max(peaks.flops_per_s.values(), default=1e12))
    call_seconds = max(cost.bytes / peaks.copy_bytes_per_s, cost.flops / flops, 1e-6)
    by_cache = math.ceil(ring_bytes / max(cost.bytes, 1))
    by_clock = math.ceil(device.target_seconds / call_seconds)
    by_memory = device.ring_limit // (2 * stride)
    calls = max(min(max(by_cache, by_clock, MIN_CALLS), MAX_CALLS, by_memory), 2)
    weights = min(math.ceil(ring_bytes / max(weight_stride, 1)) + 1, max(calls // 2, 1)) if weight_layout else 1
    return Geometry(calls, weights, entry, stride, weight_layout, weight_stride)


def _block(task: Task, workload: Workload, weights: bool) -> tuple[dict[str, TensorRef], int]:
    refs: dict[str, TensorRef] = {}
    position = 0
    for arg in task.signature:
        if arg.role is not Role.SCALAR and (arg.role is Role.WEIGHT) == weights:
            refs[arg.name] = tensor_ref(arg, workload, position + GUARD)
            position = refs[arg.name].offset + extent_of(refs[arg.name]) + GUARD
    return refs, -(-position // ALIGNMENT) * ALIGNMENT


class InputSets:
    """P = 2K input sets of one workload, private to the judge; shared by all sides that are timed on it.

    Attributes:
        task: The task.
        workload: With completed sizes.
        geometry: Of the rings that these sets fill.
        scalars: Values of the scalar arguments (the same in all sets).
    """

    def __init__(self, task: Task, workload: Workload, geometry: Geometry, seed: int, device: Device) -> None:
        self.task, self.geometry, self.device = task, geometry, device
        self.workload = completed(task, workload, Regime.REALISTIC)
        self._seed = seed
        self._args: dict[str, torch.Tensor] = {}
        self._weights: dict[str, torch.Tensor] = {}
        self.scalars: dict[str, bool | int | float] = {}
        self.cost = Cost(0, 0)
        copies: list[list[torch.Tensor]] = [[] for _ in range(geometry.weights)]
        for index in range(geometry.slots):
            self._store(index, self._draw(index, copies[index % geometry.weights]))

    def _draw(self, index: int, weights: list[torch.Tensor]) -> Case:
        own, shared = derive_seed(self._seed, "set", index), derive_seed(self._seed, "shared")
        where = self.device.torch_device
        return make_case(self.task, self.workload, Regime.REALISTIC, own, where, shared, oracle=False, weights=weights)

    def _store(self, index: int, case: Case) -> None:
        if index == 0:
            self.cost = self.task.cost(self.workload, case.args)
        for arg in self.task.signature:
            if arg.role is Role.OUTPUT:
                continue
            value = case.args[arg.name]
            if not isinstance(value, torch.Tensor):
                self.scalars[arg.name] = value
                continue
            store, count = (self._weights, self.geometry.weights) if arg.role is Role.WEIGHT else (self._args, self.geometry.slots)
            if arg.name not in store:
                store[arg.name] = torch.empty((count, *value.shape), dtype=value.dtype, device=value.device)
            if index < count:
                store[arg.name][index] = value

    def write(self, name: str, order: torch.Tensor, target: torch.Tensor) -> None:
        """Copy one argument of set ``order[s]`` into ``target[s]``, for every s."""
        source = self._args[name]
        if source.is_cuda:
            target.copy_(source[order])
        else:  # one pass instead of two
            for slot, index in enumerate(order.tolist()):
                target[slot].copy_(source[index])

    def weight(self, name: str) -> torch.Tensor:
        """Stacked copies of one weight."""
        return self._weights[name]

    def case(self, index: int) -> Case:
        """Set `index` with its oracle."""
        args = {name: stack[index] for name, stack in self._args.items()}
        args |= {name: stack[index % self.geometry.weights] for name, stack in self._weights.items()}
        merged = {**args, **self.scalars}
        return Case(self.workload, Regime.REALISTIC, dict(merged), self.task.oracle(merged))

    def shuffle(self, generator: torch.Generator) -> torch.Tensor:
        """A new assignment of sets to slots (int64 ``[2K]``).

        Every slot keeps its copy of the weights, and the first K slots keep their sets among themselves: sets may differ in the work
        that they mean, and every block of K calls has to mean the same.
        """
        slots, calls, weights = self.geometry.slots, self.geometry.calls, self.geometry.weights
        order = torch.arange(slots)
        for half in (order[:calls].clone(), order[calls:].clone()):
            for residue in range(weights):
                members = half[half % weights == residue]
                order[members] = members[torch.randperm(len(members), generator=generator)]
        return order.to(self.device.torch_device)


class Ring:
    """The judge's view of one side's ring inside an arena."""

    def __init__(self, sets: InputSets, arena: Arena) -> None:
        self.sets, self.arena = sets, arena
        self._geometry = sets.geometry
        self._weights_at = (self._geometry.slots + 1) * self._geometry.stride
        self._words = arena.view.view(torch.int32)
        self._private: dict[str, torch.Tensor] = {}
        for name, ref in self._geometry.weight_layout.items():
            self._stacked(ref, self._weights_at, self._geometry.weight_stride, self._geometry.weights).copy_(sets.weight(name))

    def calls(self) -> list[list[ArgValue]]:
        """Argument lists of all slots, the spare one last, for a worker that has the arena attached as number 0."""
        geometry = self._geometry
        return [
            [self._value(arg, slot * geometry.stride, self._weights_at + slot % geometry.weights * geometry.weight_stride)
             for arg in self.sets.task.signature]
            for slot in range(geometry.slots + 1)
        ]

    def _value(self, arg: Arg, start: int, weights_at: int) -> ArgValue:
        if arg.role is Role.SCALAR:
            return self.sets.scalars[arg.name]
        base = weights_at if arg.role is Role.WEIGHT else start
        ref = (self._geometry.weight_layout if arg.role is Role.WEIGHT else self._geometry.entry)[arg.name]
        return TensorRef(0, base + ref.offset, ref.shape, ref.strides, ref.dtype)

    def _stacked(self, ref: TensorRef, start: int, stride: int, count: int) -> torch.Tensor:
        """``[count, *shape]`` over all copies of one buffer."""
        dtype = getattr(torch, ref.dtype)
        memory = self.arena.view[start + ref.offset :]
        memory = memory[: memory.numel() // dtype.itemsize * dtype.itemsize].view(dtype)
        return memory.as_strided((count, *ref.shape), (stride // dtype.itemsize, *ref.strides))

    def buffers(self, name: str, count: int) -> torch.Tensor:
        """The first `count` slots of one argument, ``[count, *shape]``: live memory, not a copy."""
        return self._stacked(self._geometry.entry[name], 0, self._geometry.stride, count)

    def refill(self, order: torch.Tensor, count: int, poison: int) -> None:
        """Write new inputs into the first `count` slots and the spare one, restore in-out arguments, poison outputs."""
        for arg in self.sets.task.signature:
            if arg.role is Role.OUTPUT:
                poison_(self.buffers(arg.name, count), poison)
            elif arg.role in (Role.INPUT, Role.INOUT, Role.METADATA):
                self.sets.write(arg.name, order[:count], self.buffers(arg.name, count))
                self.sets.write(arg.name, order[:1], self._spare(arg.name))

    def _spare(self, name: str) -> torch.Tensor:
        """The spare slot's buffer, ``[1, *shape]``."""
        return self._stacked(self._geometry.entry[name], self._geometry.slots * self._geometry.stride, self._geometry.stride, 1)

    def secret_words(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Positions of one random 32-bit word in every output of the first `count` slots (int64, on the device)."""
        positions = []
        for arg in self.sets.task.outputs:
            ref = self._geometry.entry[arg.name]
            size = int(getattr(torch, ref.dtype).itemsize)
            picks = [torch.randint(max(extent, 1), (count,), generator=generator) for extent in ref.shape]
            elements = sum((pick * stride for pick, stride in zip(picks, ref.strides, strict=True)), torch.zeros(count, dtype=torch.int64))
            starts = torch.arange(count) * self._geometry.stride + ref.offset
            positions.append((starts + elements * size) // 4)
        return torch.cat(positions).to(self.sets.device.torch_device)

    def gather(self, positions: torch.Tensor) -> torch.Tensor:
        """The words at these positions, on the host."""
        return self._words[positions].cpu()

    def snapshot(self, count: int) -> dict[str, torch.Tensor]:
        """Private copies of the outputs of the first `count` slots, valid until the next snapshot (fresh memory would cost page faults)."""
        for arg in self.sets.task.outputs:
            live = self.buffers(arg.name, self._geometry.slots)
            if arg.name not in self._private:
                self._private[arg.name] = torch.empty(live.shape, dtype=live.dtype, device=live.device)
            self._private[arg.name][:count].copy_(live[:count])
        return {name: copies[:count] for name, copies in self._private.items()}
