"""Canaries: random, of two kinds, and every changed byte is told and named."""

from __future__ import annotations

import pytest
import torch

from fastkernels_env.judge.canaries import fill_canary, fill_slots, touched
from fastkernels_env.judge.layout import plan_layout, view_of
from fastkernels_env.registry import load_task
from fastkernels_env.task import Workload

FLOATS = [torch.bfloat16, torch.float16, torch.float32]


def filled(kind, seed, count=1 << 16):
    memory = torch.zeros(count, dtype=torch.uint8)
    fill_canary(memory, kind, seed)
    return memory


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_first_kind_reads_as_nan_and_the_second_as_a_huge_number(dtype):
    assert bool(filled(0, 3).view(dtype).isnan().all())
    huge = filled(1, 3).view(dtype).double()
    assert bool(huge.isfinite().all())
    assert float(huge.abs().min()) > (1e4 if dtype is torch.float16 else 2.0**99)
    assert 0.4 < float((huge < 0).double().mean()) < 0.6


@pytest.mark.parametrize("kind", [0, 1])
def test_canaries_follow_from_their_seed_alone(kind):
    assert torch.equal(filled(kind, 3), filled(kind, 3))
    same = filled(kind, 3).view(torch.int16) == filled(kind, 4).view(torch.int16)
    assert float(same.double().mean()) < 0.02


@pytest.mark.parametrize("kind", [0, 1])
def test_canaries_do_not_repeat_over_pages(kind):
    words = filled(kind, 5, 3 << 20).view(torch.int16)
    for period in (2048, 1 << 15, 1 << 19):
        assert float((words[:-period] == words[period:]).double().mean()) < 0.5


def arena():
    """Two calls of rms_norm on strided rows: layout, memory, and an image of it."""
    task = load_task("rms_norm")
    shape = Workload(name="w", device="cpu", dtype="float32", sizes={"T": 4, "H": 8, "row_stride": 12})
    layout = plan_layout(task, shape, [{"epsilon": 1e-5}] * 2, 7)
    memory = torch.zeros(layout.size, dtype=torch.uint8)
    fill_slots(memory, layout, 1)
    return task, layout, memory, memory.clone()


def test_the_kinds_take_turns():
    _, layout, memory, _ = arena()
    first, second = (view_of(memory, slot.refs["input"]) for slot in layout.slots)
    assert bool(first.isnan().all())
    assert bool(second.isfinite().all())


def test_what_outputs_hold_is_nobodys_business():
    task, layout, memory, image = arena()
    for slot in layout.slots:
        view_of(memory, slot.refs["out"]).fill_(1.0)
    assert touched(task, layout, memory, image) == ("", "")


@pytest.mark.parametrize(
    ("step", "canary", "mutated"),
    [(-1, "0 bytes before 'input'", ""), (0, "", "input"), (32, "between the rows of 'input'", ""), (48, "", "input"),
     (3 * 48 + 32, "0 bytes after 'input'", "")],
)  # fmt: skip
@pytest.mark.parametrize("call", [0, 1])
def test_every_changed_byte_is_told(call, step, canary, mutated):
    task, layout, memory, image = arena()
    memory[layout.slots[call].refs["input"].offset + step] ^= 1
    found = touched(task, layout, memory, image)
    assert found[1] == mutated
    assert canary in found[0]
    assert bool(found[0]) == bool(canary)
