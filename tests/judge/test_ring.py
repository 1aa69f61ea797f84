"""The ring: what the judge writes into it is what its sets say, and nothing else."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastkernels_env.device.cpu import CpuDevice
from fastkernels_env.judge.geometry import MAX_CALLS, MIN_CALLS, SPARE, Geometry, plan_ring
from fastkernels_env.judge.layout import extent_of, view_of
from fastkernels_env.judge.ring import Ring, copy_slots_
from fastkernels_env.judge.sets import InputSets
from fastkernels_env.judge.verify import POISONS, poison_, poison_slots_
from fastkernels_env.registry import load_task
from fastkernels_env.task import Cost, Role, Workload
from fastkernels_env.types import Peaks

PEAKS = Peaks(copy_bytes_per_s=1e10, flops_per_s={"float32": 1e11, "bfloat16": 1e11})
SHAPES = {
    "rms_norm": ("bfloat16", {"T": 5, "H": 33, "row_stride": 48}),
    "fused_add_rms_norm": ("float32", {"T": 3, "H": 40}),
    "silu_and_mul": ("bfloat16", {"T": 4, "I": 24}),
    "gqa_decode": ("float32", {"B": 3, "q": 4, "kv": 2, "d": 16, "page": 4, "pool": 6}),
    "rope": ("bfloat16", {"T": 6, "q": 2, "kv": 1, "d": 8, "P": 32, "row_stride": 64}),
    "fused_experts": ("bfloat16", {"T": 4, "H": 16, "E": 4, "k": 2, "I": 8}),
}


class Small:
    """A ring small enough to look at every byte."""

    def __init__(self, name: str, weights: int, calls: int) -> None:
        self.task = load_task(name)
        dtype, sizes = SHAPES[name]
        base = self.task.smoke_workload("cpu")
        workload = Workload(name="small", device="cpu", dtype=dtype, sizes=sizes, params=base.params)
        device = CpuDevice()
        full = Workload(name="small", device="cpu", dtype=dtype, sizes=self.task.complete(sizes), params=base.params)
        plan = plan_ring(self.task, full, Cost(1, 1), PEAKS, device)
        self.geometry = plan._replace(calls=calls, weights=weights if plan.weight_layout else 1)
        self.sets = InputSets(self.task, workload, self.geometry, 11, device)
        self.arena = device.allocate(self.geometry.size)
        self.arena.view.fill_(0x77)
        self.ring = Ring(self.sets, self.arena)
        self.generator = torch.Generator().manual_seed(5)


RINGS = [("rms_norm", 3, 5), ("fused_add_rms_norm", 1, 4), ("gqa_decode", 2, 4), ("rope", 2, 4), ("fused_experts", 4, 6)]


@pytest.fixture(scope="module", params=RINGS, ids=lambda p: p[0])
def small(request):
    made = Small(*request.param)
    yield made
    made.arena.close()


def test_a_shuffle_is_a_permutation_that_keeps_the_copies_of_the_weights(small):
    entries, weights = small.geometry.entries, small.geometry.weights
    orders = [small.sets.shuffle(small.generator).tolist() for _ in range(20)]
    for order in orders:
        assert sorted(order) == list(range(entries))
        assert all(index % weights == slot % weights for slot, index in enumerate(order))
    assert len(set(map(tuple, orders))) > 5


@settings(max_examples=80)
@given(st.integers(2, 40), st.integers(1, 20), st.integers(0, 10**6))
def test_shuffles_of_any_geometry(calls, weights, seed):
    weights = min(weights, calls // 2)
    sets = InputSets.__new__(InputSets)
    sets.geometry, sets.device = Geometry(calls, weights, {}, 256, {}, 0), CpuDevice()
    order = sets.shuffle(torch.Generator().manual_seed(seed)).tolist()
    assert sorted(order) == list(range(2 * calls + SPARE))
    for slot, index in enumerate(order):
        assert index % weights == slot % weights
        assert index // calls == slot // calls, "a block of K calls keeps its sets"


def held(small, arrangement, slot, poison):
    """Assert that a slot holds what its arrangement says; returns the case."""
    case = small.sets.case(arrangement, slot)
    for arg, value in zip(small.task.signature, small.ring.calls()[slot], strict=True):
        if arg.role is Role.SCALAR:
            assert value == case.args[arg.name]
            continue
        memory = view_of(small.arena.view, value)
        if arg.role is Role.OUTPUT:
            wanted = POISONS[poison]
            assert bool((memory.isnan() if math.isnan(wanted) else memory == wanted).all())
        else:
            assert torch.equal(memory, case.args[arg.name]), (slot, arg.name)
    return case


def test_every_slot_holds_what_its_arrangement_says(small):
    for poison in (0, 1):
        arrangement = small.sets.arrange(small.generator, count=small.geometry.slots, renewed=1)
        small.ring.refill(arrangement, small.geometry.slots, poison)
        for slot in range(small.geometry.entries):
            held(small, arrangement, slot, poison)


def test_the_spare_slots_are_filled_before_every_block(small):
    arrangement = small.sets.arrange(small.generator)
    small.ring.refill(arrangement, 1, 0)
    for slot in range(small.geometry.slots, small.geometry.entries):
        held(small, arrangement, slot, 0)


def test_what_is_frozen_keeps_its_metadata(small):
    arrangement = small.sets.frozen(small.sets.arrange(small.generator))
    before = small.sets.metadata(arrangement, slice(None))
    small.sets.renew(range(small.geometry.entries))
    for name, values in small.sets.metadata(arrangement, slice(None)).items():
        assert torch.equal(values, before[name])


def test_a_sealed_entry_is_new_but_for_the_metadata_of_its_slot(small):
    arrangement = small.sets.arrange(small.generator)
    small.ring.refill(arrangement, small.geometry.slots, 0)
    metadata = {name: values[0] for name, values in small.sets.metadata(arrangement, slice(1, 2)).items()}
    old = small.sets.case(arrangement, 1)
    case = small.sets.entry(1, small.sets.draw(1), metadata, oracle=True)
    small.ring.put(1, case, 1)
    for arg, value in zip(small.task.signature, small.ring.calls()[1], strict=True):
        if arg.role in (Role.INPUT, Role.INOUT, Role.METADATA, Role.WEIGHT):
            memory = view_of(small.arena.view, value)
            assert torch.equal(memory, case.args[arg.name])
            stays = arg.role in (Role.METADATA, Role.WEIGHT)
            assert torch.equal(memory, old.args[arg.name]) == stays or memory.dtype is torch.int32
    again = small.task.oracle(case.args)
    assert all(torch.equal(again[arg.name], case.expected[arg.name]) for arg in small.task.outputs)


def test_a_short_block_leaves_the_other_slots_alone(small):
    slots = small.geometry.slots
    small.ring.refill(small.sets.arrange(small.generator), slots, 0)
    before = small.arena.view.clone()
    small.ring.refill(small.sets.arrange(small.generator, count=slots // 2, renewed=1), slots // 2, 1)
    border, spare = slots // 2 * small.geometry.stride, slots * small.geometry.stride
    assert torch.equal(small.arena.view[border:spare], before[border:spare])
    assert not torch.equal(small.arena.view[:border], before[:border])


def test_nothing_is_written_between_the_buffers(small):
    covered = torch.zeros(small.arena.size, dtype=torch.bool)
    for call in small.ring.calls():
        for value in call:
            if not isinstance(value, int | float):
                covered[value.offset : value.offset + extent_of(value)] = True
    small.ring.refill(small.sets.arrange(small.generator), small.geometry.slots, 0)
    assert bool((small.arena.view[~covered] == 0x77).all())


def test_buffers_of_different_slots_do_not_overlap(small):
    spans = set()
    for call in small.ring.calls():
        for arg, value in zip(small.task.signature, call, strict=True):
            if arg.role is not Role.SCALAR:
                spans.add((value.offset, value.offset + extent_of(value)))
    ordered = sorted(spans)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(ordered))
    assert ordered[-1][1] <= small.geometry.size


def test_sets_differ_from_each_other(small):
    plain = small.sets.arrange(small.generator, plain=True)
    for arg in small.task.signature:
        if arg.role in (Role.INPUT, Role.INOUT):
            values = [small.sets.case(plain, slot).args[arg.name] for slot in range(small.geometry.slots)]
            assert values[0].dtype is torch.int32 or all(not torch.equal(values[0], other) for other in values[1:])


def test_the_oracle_of_a_set_is_that_of_its_values(small):
    case = small.sets.case(small.sets.arrange(small.generator), 1)
    again = small.task.oracle(case.args)
    for arg in small.task.outputs:
        assert torch.equal(case.expected[arg.name], again[arg.name])


def test_secret_words_lie_inside_the_outputs_and_reach_all_of_each(small):
    count = small.geometry.entries
    calls, names = small.ring.calls(), [arg.name for arg in small.task.signature]
    hit: dict[tuple[str, int], set[int]] = {}
    for _ in range(300):
        positions = small.ring.secret_words(range(count), small.generator).view(len(small.task.outputs), count)
        for arg, row in zip(small.task.outputs, positions.tolist(), strict=True):
            for slot, word in enumerate(row):
                ref = calls[slot][names.index(arg.name)]
                assert ref.offset <= 4 * word < ref.offset + extent_of(ref)
                hit.setdefault((arg.name, slot), set()).add(4 * word - ref.offset)
    for (name, slot), offsets in hit.items():
        extent = extent_of(calls[slot][names.index(name)])
        assert min(offsets) < extent / 8
        assert max(offsets) > extent * 7 / 8


def test_gathered_words_are_those_in_memory_now(small):
    count = small.geometry.slots
    small.ring.refill(small.sets.arrange(small.generator), count, 1)
    positions = small.ring.secret_words(range(count), small.generator)
    before = small.ring.gather(positions)
    assert torch.equal(before, small.ring.gather(positions))
    for arg in small.task.outputs:
        small.ring.buffers(arg.name, slice(0, count)).fill_(3)
    assert not bool((before == small.ring.gather(positions)).any())


def test_a_snapshot_is_private(small):
    small.ring.refill(small.sets.arrange(small.generator), small.geometry.slots, 1)
    snapshot = small.ring.snapshot(slice(1, 4))
    copies = {name: values.clone() for name, values in snapshot.items()}
    small.arena.view.zero_()
    for name, values in snapshot.items():
        assert values.shape[0] == 3
        assert torch.equal(values, copies[name])
    small.arena.view.fill_(0x77)
    Ring(small.sets, small.arena)  # writes the weights back


@settings(max_examples=100)
@given(st.integers(1, 10**9), st.integers(0, 10**12), st.sampled_from(["rms_norm", "fused_experts"]))
def test_k_defeats_the_cache_unless_a_limit_forbids_it(nbytes, flops, name):
    task, device = load_task(name), CpuDevice()
    dtype, sizes = SHAPES[name]
    workload = Workload(name="w", device="cpu", dtype=dtype, sizes=task.complete(sizes))
    plan = plan_ring(task, workload, Cost(nbytes, flops), PEAKS, device)
    assert 2 <= plan.calls <= MAX_CALLS
    assert plan.slots == 2 * plan.calls
    assert plan.slots * plan.stride <= max(device.ring_limit, 4 * plan.stride)
    assert 1 <= plan.weights <= plan.slots
    within = plan.slots * plan.stride < device.ring_limit / 2
    if plan.calls < MAX_CALLS and within:
        assert plan.calls >= MIN_CALLS
        assert plan.calls * nbytes >= 2 * device.cache_bytes


def test_large_entries_get_a_short_ring():
    task, device = load_task("rms_norm"), CpuDevice()
    huge = Workload(name="w", device="cpu", dtype="float32", sizes={"T": 30_000, "H": 8192})
    plan = plan_ring(task, huge, Cost(2 * 4 * 30_000 * 8192, 1), PEAKS, device)
    assert plan.calls == 2


FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn]
INTEGERS = [torch.int64, torch.int32, torch.int8, torch.uint8]


@pytest.mark.parametrize("dtype", FLOATS + INTEGERS)
@pytest.mark.parametrize("which", [0, 1])
@given(st.integers(1, 3), st.integers(1, 40), st.integers(0, 3), st.integers(0, 17))
@settings(max_examples=20, deadline=None)
def test_many_slots_are_poisoned_and_copied_as_one_is_and_nothing_beside_them(dtype, which, slots, width, first, gap):
    bytes_ = torch.arange(slots * (first + width + gap) * dtype.itemsize, dtype=torch.int64).to(torch.uint8)
    memory = bytes_.clone().view(dtype).view(slots, first + width + gap)
    due = memory.clone()
    poison_slots_(memory[:, first : first + width], which)
    poison_(due[:, first : first + width], which)
    assert torch.equal(memory.view(torch.uint8), due.view(torch.uint8))
    target = bytes_.clone().view(dtype).view(slots, first + width + gap)
    copy_slots_(target[:, first : first + width], due[:, first : first + width])
    assert torch.equal(target.view(torch.uint8), due.view(torch.uint8))
