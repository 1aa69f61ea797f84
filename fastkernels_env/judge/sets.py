"""The input sets behind a ring: what its slots hold in a block, and how that changes before the next.

Before every block the sets move to other slots, the task rearranges what they hold (see `rearrange`), and a few are drawn anew: every
address holds new values, and the right answer at each slot is known or can be computed. Weights stay where they are (they are constant
between calls in production) and are replicated only as far as defeating the cache needs.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from ..device import Device
from ..rearrange import Entries, Rearrangement, Rows, fill, gather
from ..task import Cost, Role, Task, Workload
from ..types import Regime
from .cases import Case, completed, derive_seed, make_case
from .geometry import Geometry

if TYPE_CHECKING:
    from ..task import Value


class Arrangement(NamedTuple):
    """What the slots of a ring hold in one block.

    Attributes:
        order: Set of every slot (int64 ``[entries]``, on the host).
        kept: Slots that hold their set as it is (bool ``[entries]``, on the host).
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
        order = self.shuffle(generator)
        if plain:
            return self._plain(order)
        kept = torch.zeros(len(order), dtype=torch.bool)
        chosen = torch.randperm(count, generator=generator)[:renewed]
        kept[chosen] = True
        self.renew(order[chosen].tolist())
        groups = self._groups()
        groups[kept] = len(order) + torch.arange(len(order))[kept]
        sets, exchanged, held = (values.to(self.device.torch_device, non_blocking=True) for values in (order, groups, kept))
        entries = Entries(self.workload.sizes, self._args, sets, exchanged, held, self._generator)
        return Arrangement(order, kept, self.task.rerandomise(self.workload, entries))

    def _plain(self, order: torch.Tensor) -> Arrangement:
        whole = Rows(order.to(self.device.torch_device, non_blocking=True)[:, None])
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
