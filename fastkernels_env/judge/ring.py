"""The ring: 2K distinct entries of one workload and two spare ones, refilled before every timed block.

The judge keeps one private input set per slot (see `sets`). Slots of the ring hold the entries' buffers inside an arena at a constant
stride (see `geometry`), so that refilling, poisoning and snapshotting are one strided operation per argument.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .._passes import words
from ..device import Arena
from ..protocol import ArgValue, TensorRef
from ..task import Arg, Role
from .cases import Case
from .layout import part_of
from .sets import Arrangement, InputSets
from .verify import poison_, poison_slots_


class Ring:
    """The judge's view of one side's ring inside an arena."""

    def __init__(self, sets: InputSets, arena: Arena) -> None:
        self.sets, self.arena = sets, arena
        self._geometry = sets.geometry
        self._weights_at = self._geometry.entries * self._geometry.stride
        self._words = arena.view.view(torch.int32).view(-1)
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
        return TensorRef(0, base + ref.offset, ref.shape, ref.strides, ref.dtype, ref.rank)

    def _stacked(self, ref: TensorRef, start: int, stride: int, count: int) -> torch.Tensor:
        """``[count, *shape]`` over all copies of one buffer."""
        dtype = getattr(torch, ref.dtype)
        memory = part_of(self.arena.view, ref.rank)[start + ref.offset :]
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
                    poison_slots_(self.buffers(arg.name, slots), poison)
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
            starts = numbers * self._geometry.stride + ref.offset + ref.rank * self.arena.size
            positions.append((starts + elements * size) // 4)
        return torch.cat(positions).to(self.sets.device.torch_device, non_blocking=True)

    def gather(self, positions: torch.Tensor) -> torch.Tensor:
        """The words at these positions, on the host."""
        return self._words[positions].cpu()

    def snapshot(self, slots: slice) -> dict[str, torch.Tensor]:
        """Private copies of the outputs of some slots, valid until the next snapshot of them (fresh memory would cost page faults)."""
        for arg in self.sets.task.outputs:
            live = self.buffers(arg.name, slots)
            if arg.name not in self._private:
                self._private[arg.name] = torch.empty((self._geometry.entries, *live.shape[1:]), dtype=live.dtype, device=live.device)
            copy_slots_(self._private[arg.name][slots], live)
        return {name: copies[slots] for name, copies in self._private.items()}


def copy_slots_(target: torch.Tensor, source: torch.Tensor) -> None:
    """Copy one buffer of many slots (``[slots, ...]``), as fast as memory is read and written."""
    into, values = words(target), words(source)
    if into is None or values is None:
        target.copy_(source)
    else:
        into.copy_(values)
