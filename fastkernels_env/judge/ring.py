"""The ring: 2K distinct entries of one workload and two spare ones, refilled before every timed block.

The judge keeps one private input set per slot. Slots of the ring hold the entries' buffers inside an arena at a constant stride, so that
refilling, poisoning and snapshotting are one strided operation per argument. Before every block the sets move to other slots, the task
rearranges what they hold (see `rearrange`), and a few are drawn anew: every address holds new values, and the right answer at each slot is
known or can be computed. Weights stay where they are (they are constant between calls in production) and are replicated only as far as
defeating the cache needs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from ..device import Arena, Device
from ..protocol import ArgValue, TensorRef
from ..rearrange import Entries, Rearrangement, Rows, fill, gather
from ..task import Arg, Cost, Role, Task, Workload
from ..types import Peaks, Regime
from .cases import Case, completed, derive_seed, make_case
from .layout import ALIGNMENT, GUARD, extent_of, tensor_ref
from .verify import poison_

if TYPE_CHECKING:
    from ..task import Value

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
        """Bytes of the arena."""
        return self.entries * self.stride + self.weights * self.weight_stride


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


class Arrangement(NamedTuple):
    """What the slots of a ring hold in one block.

    Attributes:
        order: Set of every slot (int64 ``[entries]``, on the device).
        kept: Slots that hold their set as it is (bool ``[entries]``).
        moved: Contents and answers of all slots.
    """

    order: torch.Tensor
    kept: torch.Tensor
    moved: Rearrangement


class InputSets:
    """Input sets of one workload, one per slot, private to the judge; shared by all sides that are timed on it.

    Attributes:
        task: The task.
        workload: With completed sizes.
        geometry: Of the rings that these sets fill.
        scalars: Values of the scalar arguments (the same in all sets).
        version: Of every set, a number that no earlier values of it had (int64 ``[entries]``, on the device).
    """

    def __init__(self, task: Task, workload: Workload, geometry: Geometry, seed: int, device: Device) -> None:
        self.task, self.geometry, self.device = task, geometry, device
        self.workload = completed(task, workload, Regime.REALISTIC)
        self._seed, self._drawn = seed, itertools.count()
        self._args: dict[str, torch.Tensor] = {}
        self._weights: dict[str, torch.Tensor] = {}
        self.scalars: dict[str, bool | int | float] = {}
        self.cost = Cost(0, 0)
        self._copies: list[list[torch.Tensor]] = [[] for _ in range(geometry.weights)]
        for index in range(geometry.entries):
            self._store(index, self._draw(index))
        self.version = torch.arange(geometry.entries, device=device.torch_device)
        self._generator = torch.Generator(device.torch_device).manual_seed(derive_seed(seed, "rearrange"))

    def _draw(self, index: int) -> Case:
        """Values that no earlier draw had, to be used with the weights of set `index`."""
        own, shared = derive_seed(self._seed, "set", next(self._drawn)), derive_seed(self._seed, "shared")
        where, weights = self.device.torch_device, self._copies[index % self.geometry.weights]
        return make_case(self.task, self.workload, Regime.REALISTIC, own, where, shared, oracle=False, weights=weights)

    def _store(self, index: int, case: Case, *, renewed: bool = False) -> None:
        if not self._args:
            self.cost = self.task.cost(self.workload, case.args)
        for arg in self.task.signature:
            if arg.role is Role.OUTPUT:
                continue
            value = case.args[arg.name]
            if not isinstance(value, torch.Tensor):
                self.scalars.setdefault(arg.name, value)
                continue
            weight = arg.role is Role.WEIGHT
            if weight and renewed:
                continue  # constant between calls
            store, count = (self._weights, self.geometry.weights) if weight else (self._args, self.geometry.entries)
            if arg.name not in store:
                store[arg.name] = torch.empty((count, *value.shape), dtype=value.dtype, device=value.device)
            if index < count:
                store[arg.name][index] = value

    def draw(self, slot: int) -> dict[str, Value]:
        """Values that no one has seen, for a slot."""
        return self._draw(slot).args

    def entry(self, slot: int, drawn: Mapping[str, Value], metadata: Mapping[str, torch.Tensor], *, oracle: bool) -> Case:
        """An entry of drawn values in one slot, with its oracle if it is asked for.

        Args:
            slot: Decides the copy of the weights.
            drawn: What `draw` gave.
            metadata: The slot's metadata, by name: it stays, since a plan may have been made of it.
            oracle: Whether to compute what must come out.
        """
        args = {**drawn, **metadata, **self.scalars}
        args |= {name: stack[slot % self.geometry.weights] for name, stack in self._weights.items()}
        return Case(self.workload, Regime.REALISTIC, args, self.task.oracle(args) if oracle else {})

    def renew(self, indices: Sequence[int]) -> None:
        """Draw some sets anew."""
        for index in indices:
            self._store(index, self._draw(index), renewed=True)
            self.version[index] = self.version.max() + 1

    def arrange(self, generator: torch.Generator, count: int = 0, renewed: int = 0, *, plain: bool = False) -> Arrangement:
        """Decide what every slot holds next.

        Args:
            generator: Of the assignment of sets to slots.
            count: Calls of the block that follows.
            renewed: How many of its sets are drawn anew; a slot that gets one holds it as it is, so that its answer becomes known.
            plain: Every slot holds a set as it is.
        """
        order, where = self.shuffle(generator), self.device.torch_device
        if plain:
            return self._plain(order.to(where))
        kept = torch.zeros(len(order), dtype=torch.bool)
        chosen = torch.randperm(count, generator=generator)[:renewed]
        kept[chosen] = True
        self.renew(order[chosen].tolist())
        groups = self._groups()
        groups[kept] = len(order) + torch.arange(len(order))[kept]
        order, kept = order.to(where), kept.to(where)
        entries = Entries(self.workload.sizes, self._args, order, groups.to(where), kept, self._generator)
        return Arrangement(order, kept, self.task.rerandomise(self.workload, entries))

    def _plain(self, order: torch.Tensor) -> Arrangement:
        whole = Rows(order[:, None])
        outputs = {arg.name: whole for arg in self.task.outputs}
        return Arrangement(order, torch.ones_like(order, dtype=torch.bool), Rearrangement(dict.fromkeys(self._args, whole), outputs))

    def _groups(self) -> torch.Tensor:
        """Slots that may exchange their sets (int64 ``[entries]``, on the host): same copy of the weights, same part of the ring."""
        calls, slot = self.geometry.calls, torch.arange(self.geometry.entries)
        return slot // calls * self.geometry.weights + slot % self.geometry.weights

    def shuffle(self, generator: torch.Generator) -> torch.Tensor:
        """A new assignment of sets to slots (int64 ``[entries]``, on the host).

        Every slot keeps its copy of the weights, and the first K slots keep their sets among themselves: sets may differ in the work
        that they mean, and every block of K calls has to mean the same.
        """
        groups = self._groups()
        order = torch.empty_like(groups)
        dealt = (groups + torch.rand(len(groups), dtype=torch.float64, generator=generator)).argsort()
        order[groups.argsort(stable=True)] = dealt
        return order

    def frozen(self, arrangement: Arrangement) -> Arrangement:
        """The same, with the present metadata for good: for a side that plans once."""
        metadata = self.metadata(arrangement, slice(None))
        moved = arrangement.moved
        return arrangement._replace(moved=moved._replace(arguments={**moved.arguments, **metadata}))

    def metadata(self, arrangement: Arrangement, slots: slice) -> dict[str, torch.Tensor]:
        """Metadata of some slots by name, ``[slots, ...]``."""
        names = [arg.name for arg in self.task.signature if arg.role is Role.METADATA]
        return {name: self.values(arrangement, name, slots) for name in names}

    def values(self, arrangement: Arrangement, name: str, slots: slice) -> torch.Tensor:
        """What some slots hold of one argument, ``[slots, ...]``."""
        source = arrangement.moved.arguments[name]
        return gather(self._args[name], source.part(slots)) if isinstance(source, Rows) else source[slots]

    def write(self, arrangement: Arrangement, name: str, slots: slice, target: torch.Tensor) -> None:
        """Put one argument into some slots (``target``: their buffers)."""
        source = arrangement.moved.arguments[name]
        if isinstance(source, Rows):
            fill(target, self._args[name], source.part(slots))
        else:
            target.copy_(source[slots])

    def weight(self, name: str) -> torch.Tensor:
        """Stacked copies of one weight."""
        return self._weights[name]

    def case(self, arrangement: Arrangement, slot: int) -> Case:
        """What a slot holds, with its oracle."""
        args = {name: self.values(arrangement, name, slice(slot, slot + 1))[0] for name in self._args}
        args |= {name: stack[slot % self.geometry.weights] for name, stack in self._weights.items()}
        merged = {**args, **self.scalars}
        return Case(self.workload, Regime.REALISTIC, dict(merged), self.task.oracle(merged))


class Ring:
    """The judge's view of one side's ring inside an arena."""

    def __init__(self, sets: InputSets, arena: Arena) -> None:
        self.sets, self.arena = sets, arena
        self._geometry = sets.geometry
        self._weights_at = self._geometry.entries * self._geometry.stride
        self._words = arena.view.view(torch.int32)
        self._private: dict[str, torch.Tensor] = {}
        for name, ref in self._geometry.weight_layout.items():
            self._stacked(ref, self._weights_at, self._geometry.weight_stride, self._geometry.weights).copy_(sets.weight(name))

    def calls(self) -> list[list[ArgValue]]:
        """Argument lists of all slots, the spare ones last, for a worker that has the arena attached as number 0."""
        geometry = self._geometry
        return [
            [self._value(arg, slot * geometry.stride, self._weights_at + slot % geometry.weights * geometry.weight_stride)
             for arg in self.sets.task.signature]
            for slot in range(geometry.entries)
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

    def parts(self, count: int) -> tuple[slice, slice]:
        """The slots that a block of `count` calls uses: the first ones and the spare ones."""
        return slice(0, count), slice(self._geometry.slots, self._geometry.entries)

    def buffers(self, name: str, slots: slice) -> torch.Tensor:
        """Some slots of one argument, ``[slots, *shape]``: live memory, not a copy."""
        geometry = self._geometry
        first, last, _ = slots.indices(geometry.entries)
        return self._stacked(geometry.entry[name], first * geometry.stride, geometry.stride, last - first)

    def refill(self, arrangement: Arrangement, count: int, poison: int) -> None:
        """Write new inputs into the first `count` slots and the spare ones, restore in-out arguments, poison outputs."""
        for arg in self.sets.task.signature:
            for slots in self.parts(count):
                if arg.role is Role.OUTPUT:
                    poison_(self.buffers(arg.name, slots), poison)
                elif arg.role in (Role.INPUT, Role.INOUT, Role.METADATA):
                    self.sets.write(arrangement, arg.name, slots, self.buffers(arg.name, slots))

    def put(self, slot: int, case: Case, poison: int) -> None:
        """Write one entry into a slot and poison its outputs."""
        for arg in self.sets.task.signature:
            if arg.role is Role.OUTPUT:
                poison_(self.buffers(arg.name, slice(slot, slot + 1)), poison)
            elif arg.role in (Role.INPUT, Role.INOUT, Role.METADATA):
                value = case.args[arg.name]
                assert isinstance(value, torch.Tensor)
                self.buffers(arg.name, slice(slot, slot + 1))[0].copy_(value)

    def secret_words(self, slots: Sequence[int], generator: torch.Generator) -> torch.Tensor:
        """Positions of one random 32-bit word in every output of these slots (int64, on the device)."""
        positions, numbers = [], torch.tensor(slots)
        count = len(slots)
        for arg in self.sets.task.outputs:
            ref = self._geometry.entry[arg.name]
            size = int(getattr(torch, ref.dtype).itemsize)
            picks = [torch.randint(max(extent, 1), (count,), generator=generator) for extent in ref.shape]
            elements = sum((pick * stride for pick, stride in zip(picks, ref.strides, strict=True)), torch.zeros(count, dtype=torch.int64))
            starts = numbers * self._geometry.stride + ref.offset
            positions.append((starts + elements * size) // 4)
        return torch.cat(positions).to(self.sets.device.torch_device)

    def gather(self, positions: torch.Tensor) -> torch.Tensor:
        """The words at these positions, on the host."""
        return self._words[positions].cpu()

    def snapshot(self, slots: slice) -> dict[str, torch.Tensor]:
        """Private copies of the outputs of some slots, valid until the next snapshot of them (fresh memory would cost page faults)."""
        for arg in self.sets.task.outputs:
            live = self.buffers(arg.name, slots)
            if arg.name not in self._private:
                self._private[arg.name] = torch.empty((self._geometry.entries, *live.shape[1:]), dtype=live.dtype, device=live.device)
            self._private[arg.name][slots].copy_(live)
        return {name: copies[slots] for name, copies in self._private.items()}
