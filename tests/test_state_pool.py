"""Pools of states: what is drawn names no slot twice, and what is dealt out anew keeps every sequence with its state."""

from __future__ import annotations

import pytest
import torch

from fastkernels_env.rearrange import Entries, Rows, gather
from fastkernels_env.recipes import Draw
from fastkernels_env.state_pool import deal, draw_slots, pool_slots
from fastkernels_env.types import Regime

SETS = 6


def pool(batch, seed, kept=()):
    """Entries whose values are their states' ids, and the pools that hold those."""
    slots = pool_slots(batch)
    given = torch.stack([draw_slots(Draw(seed * 100 + i, seed, Regime.REALISTIC, "cpu"), batch, slots) for i in range(SETS)])
    ids = torch.arange(SETS * slots, dtype=torch.float32).view(SETS, slots, 1) + 1
    owned = torch.where(given >= 0, ids[:, :, 0].gather(1, given.clamp_min(0).long()), -1.0)[:, :, None]
    held = torch.zeros(SETS, dtype=torch.bool)
    held[list(kept)] = True
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(SETS, generator=generator)
    groups = torch.where(held, 1 + torch.arange(SETS), 0)
    return Entries({}, {"indices": given}, order, groups, held, generator), ids, owned


@pytest.mark.parametrize("batch", [0, 1, 2, 3, 16, 40])
def test_no_slot_is_named_twice_and_some_entries_are_padding(batch):
    indices = draw_slots(Draw(3, 3, Regime.REALISTIC, "cpu"), batch, pool_slots(batch))
    live = indices[indices >= 0]
    assert indices.dtype is torch.int32
    assert len(live.unique()) == len(live) == batch - (1 + batch // 16 if batch > 2 else 0)
    assert not len(live) or int(live.max()) < pool_slots(batch)


def test_a_normal_batch_owns_the_first_slots():
    assert draw_slots(Draw(3, 3, Regime.NORMAL, "cpu"), 5, 8).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("batch", [1, 2, 7, 20])
def test_every_sequence_keeps_its_state_and_its_factor(batch):
    entries, ids, owned = pool(batch, batch)
    dealt = deal(entries, "indices", batch, pool_slots(batch))
    factor = torch.rand(SETS, batch, generator=torch.Generator().manual_seed(1)) + 1
    of_entries = gather(owned, Rows(dealt.entries, factor))[:, :, 0]
    states = gather(ids, dealt.scaled(factor))[:, :, 0]
    live = dealt.indices >= 0
    assert torch.equal(live, of_entries > 0)
    assert torch.equal(states.gather(1, dealt.indices.clamp_min(0).long())[live], of_entries[live])
    assert sorted(gather(ids, Rows(dealt.states)).flatten().tolist()) == ids.flatten().tolist()
    assert torch.equal(live.sum(1), torch.full((SETS,), int(live[0].sum())))


def test_kept_slots_hold_their_sets():
    entries, ids, owned = pool(9, 2, kept=(1, 4))
    dealt = deal(entries, "indices", 9, pool_slots(9))
    for slot in (1, 4):
        own = int(entries.order[slot])
        assert torch.equal(gather(ids, Rows(dealt.states))[slot], ids[own])
        assert torch.equal(gather(owned, Rows(dealt.entries))[slot], owned[own])
        assert torch.equal(dealt.indices[slot], entries.stacks["indices"][own])
