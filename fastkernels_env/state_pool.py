"""Pools of recurrent states: the slot of every sequence in a decode batch, and how sequences and slots are dealt out anew.

Entry b of a batch owns slot ``indices[b]`` of a pool that is larger than the batch. Entries of padding, with which batches are filled up
to the size of a CUDA graph, have the index -1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from .rearrange import Entries, Rows
from .recipes import Draw
from .types import Regime


def pool_slots(batch: int) -> int:
    """Slots of the pool behind a batch: a quarter of them, and two, belong to sequences that are not in it."""
    return batch + batch // 4 + 2


def draw_slots(draw: Draw, batch: int, slots: int) -> torch.Tensor:
    """A slot for every entry (int32 ``[batch]``), no two alike, and -1 for one entry and for another of every 16 (from three on).

    In the `NORMAL` regime entry b has slot b and there is no padding.
    """
    if draw.regime is Regime.NORMAL:
        return torch.arange(batch, dtype=torch.int32, device=draw.device)
    indices = draw.permutation(slots)[:batch]
    padding = 1 + batch // 16 if batch > 2 else 0
    indices[draw.permutation(batch)[:padding]] = -1
    return indices.int().to(draw.device)


class Dealt(NamedTuple):
    """Entries and states of every slot of the ring in the next block.

    Attributes:
        entries: Source of the entries (int64 ``[ring slots, B]``), for `Rows`.
        indices: Their slots in the pool (int32 ``[ring slots, B]``).
        states: Source of the pool's slots (int64 ``[ring slots, N]``).
        places: The slot of the pool that each entry owns, or would own if it were none of padding (int64 ``[ring slots, B]``).
    """

    entries: torch.Tensor
    indices: torch.Tensor
    states: torch.Tensor
    places: torch.Tensor

    def scaled(self, factor: torch.Tensor) -> Rows:
        """The pool with the state of every sequence times its entry's factor (float32 ``[ring slots, B]``)."""
        factors = torch.ones(self.states.shape, dtype=torch.float32, device=factor.device)
        return Rows(self.states, factors.scatter(1, self.places, torch.where(self.indices >= 0, factor, 1.0)))


def deal(entries: Entries, name: str, batch: int, slots: int) -> Dealt:
    """Deal the sequences out anew over the sets, to other places in the batch and other slots of the pool.

    As many entries of every set are padding as before, and so the work stays what it was. Slots that no entry names keep to their set.

    Args:
        entries: Of the ring.
        name: The argument that holds the indices.
        batch: Number of entries.
        slots: Slots of the pool, more than entries.
    """
    given, order, kept = entries.stacks[name].long(), entries.order, entries.kept[:, None]
    named = given >= 0
    by_kind = named.int().argsort(dim=1, stable=True)  # padding first: every set has as much of it
    ranks = torch.where(kept, by_kind.argsort(1)[order], entries.permutations(batch))
    sets = entries.sets(batch).gather(1, ranks)
    rows = by_kind[sets, ranks]
    owns = torch.nn.functional.pad(named[sets, rows], (0, slots - batch))  # place t of the pool: that of entry t, or of none
    owned = torch.nn.functional.pad(given, (0, slots - batch), value=-1)
    free = _free(given, slots)
    from_batch = torch.nn.functional.pad(sets * slots + given[sets, rows], (0, slots - batch))
    source = torch.where(owns, from_batch, order[:, None] * slots + _fill(free[order], owns))
    same = torch.where(owned >= 0, owned, _fill(free, owned >= 0))[order]
    places = torch.where(kept, same, entries.permutations(slots))
    indices = torch.where(owns, places, -1)[:, :batch].int()
    return Dealt(sets * batch + rows, indices, source.scatter(1, places, source), places[:, :batch])


def _free(given: torch.Tensor, slots: int) -> torch.Tensor:
    """Slots of every pool, those that no entry names first."""
    taken = torch.zeros(len(given), slots + 1, dtype=torch.int32, device=given.device)
    taken.scatter_(1, torch.where(given >= 0, given, slots), 1)
    return taken[:, :slots].argsort(dim=1, stable=True)


def _fill(free: torch.Tensor, owns: torch.Tensor) -> torch.Tensor:
    """For every place that has no owner the next free slot."""
    return free.gather(1, ((~owns).cumsum(1) - 1).clamp_min(0))
