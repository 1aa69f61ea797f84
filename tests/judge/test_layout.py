"""Where buffers lie: aligned or on drawn offsets, apart, guarded on both sides, as the signature says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastkernels_env.judge.layout import ALIGNMENT, GUARD, extent_of, plan_calls, plan_layout, view_of
from fastkernels_env.judge.verify import POISONS, poison_
from fastkernels_env.protocol import TensorRef
from fastkernels_env.registry import load_task
from fastkernels_env.task import Role, Workload


def workload(task, **sizes):
    return Workload(name="w", device="cpu", dtype="bfloat16", sizes=task.complete(sizes))


@st.composite
def layouts(draw):
    task = load_task("rms_norm")
    width = draw(st.integers(1, 70))
    sizes = {"T": draw(st.integers(0, 20)), "H": width}
    if draw(st.booleans()):
        sizes["row_stride"] = width + draw(st.integers(0, 30))
    calls = draw(st.integers(1, 4))
    return task, plan_layout(task, workload(task, **sizes), [{"epsilon": 1e-5}] * calls), sizes, calls


@settings(max_examples=150)
@given(layouts())
def test_buffers_are_aligned_and_guarded_on_both_sides(drawn):
    _, layout, _, calls = drawn
    spans = sorted((ref.offset, ref.offset + extent_of(ref)) for slot in layout.slots for ref in slot.refs.values())
    assert len(spans) == 3 * calls
    end = 0
    for start, stop in spans:
        assert start % ALIGNMENT == 0
        assert start - end >= GUARD
        end = stop
    assert layout.size - end >= GUARD


@settings(max_examples=100)
@given(layouts(), st.integers(0, 2**62))
def test_shifted_buffers_keep_the_promised_alignment_and_their_guards(drawn, seed):
    task, aligned, sizes, calls = drawn
    layout = plan_layout(task, workload(task, **sizes), [{"epsilon": 1e-5}] * calls, seed)
    assert layout == plan_layout(task, workload(task, **sizes), [{"epsilon": 1e-5}] * calls, seed)
    end = 0
    for slot in layout.slots:
        for ref in slot.refs.values():
            assert ref.offset % task.alignment == 0
            assert ref.offset - end >= GUARD
            end = ref.offset + extent_of(ref)
            assert slot.start + GUARD <= ref.offset
            assert end + GUARD <= slot.end
    assert layout.size - end >= GUARD
    assert [slot.refs["out"].shape for slot in layout.slots] == [slot.refs["out"].shape for slot in aligned.slots]


def test_shifts_use_every_offset_that_the_alignment_allows():
    task = load_task("rms_norm")
    offsets = set()
    for seed in range(60):
        layout = plan_layout(task, workload(task, T=3, H=8), [{"epsilon": 1e-5}], seed)
        offsets |= {ref.offset % ALIGNMENT for ref in layout.slots[0].refs.values()}
    assert offsets == set(range(0, ALIGNMENT, task.alignment))


def test_calls_share_a_weight_that_is_the_same_tensor():
    task = load_task("rms_norm")
    one, other = torch.ones(8), torch.ones(8)
    calls = [(workload(task, T=rows, H=8), {"epsilon": 1e-5, "weight": weight}) for rows, weight in ((3, one), (5, one), (3, other))]
    first, second, third = (slot.refs for slot in plan_calls(task, calls, share_weights=True).slots)
    assert first["weight"] == second["weight"] != third["weight"]
    assert first["input"] != second["input"]
    apart = plan_calls(task, calls).slots
    assert apart[0].refs["weight"] != apart[1].refs["weight"]


@settings(max_examples=150)
@given(layouts())
def test_views_have_the_declared_shape_and_stay_inside(drawn):
    _, layout, sizes, _ = drawn
    memory = torch.zeros(layout.size, dtype=torch.uint8)
    for slot in layout.slots:
        assert [type(a) for a in slot.arguments] == [TensorRef, TensorRef, TensorRef, float]
        for name, ref in slot.refs.items():
            view = view_of(memory, ref)
            assert view.dtype is torch.bfloat16
            assert tuple(view.shape) == ((sizes["H"],) if name == "weight" else (sizes["T"], sizes["H"]))
            if name == "input" and sizes["T"] > 1:
                assert view.stride(0) == sizes.get("row_stride", sizes["H"])
            if name == "out":
                assert view.is_contiguous()
            view.fill_(1.0)
            start = int(memory.nonzero()[0]) if view.numel() else ref.offset
            assert ref.offset <= start
            assert int(memory.count_nonzero()) == 2 * view.numel()  # bfloat16 one is 0x3f80: no byte is zero
            view.zero_()
            assert not memory.any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8"])
def test_the_extent_of_a_strided_view_ends_with_its_last_element(dtype):
    size = getattr(torch, dtype).itemsize
    assert extent_of(TensorRef(0, 0, (3, 4), (10, 1), dtype)) == (2 * 10 + 4) * size
    assert extent_of(TensorRef(0, 0, (3, 0), (10, 1), dtype)) == 0
    assert extent_of(TensorRef(0, 0, (), (), dtype)) == size


DTYPES = ["float64", "float32", "bfloat16", "float16", "int64", "int32", "int16", "uint8", "int8"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_two_poisons_differ_in_every_element(dtype):
    views = [torch.zeros(30, dtype=getattr(torch, dtype)) for _ in POISONS]
    for which, view in enumerate(views):
        poison_(view, which)
    assert not bool((views[0] == views[1]).any())
    assert not bool((views[0] == 0).any())
    assert not bool((views[1] == 0).any())


@pytest.mark.parametrize("name", ["rms_norm", "fused_add_rms_norm", "fused_experts", "gqa_decode", "rope"])
def test_every_tensor_argument_gets_a_place_and_every_scalar_its_value(name):
    task = load_task(name)
    public = task.smoke_workload("cpu")
    scalars = {arg.name: 0.5 for arg in task.signature if arg.role is Role.SCALAR}
    full = Workload(name="w", device="cpu", dtype=public.dtype, sizes=task.complete(public.sizes))
    layout = plan_layout(task, full, [scalars])
    refs, arguments = layout.slots[0].refs, layout.slots[0].arguments
    assert len(arguments) == len(task.signature)
    assert set(refs) == {arg.name for arg in task.signature} - set(scalars)
    for arg, value in zip(task.signature, arguments, strict=True):
        assert value == (0.5 if arg.role is Role.SCALAR else refs[arg.name])
