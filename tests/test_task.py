"""The task contract: shape expressions, strides, workload files, hidden draws, mutants."""

from __future__ import annotations

import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fastkernels_env._hidden import TILES
from fastkernels_env.registry import load_task, task_folders
from fastkernels_env.task import (
    Input,
    Metadata,
    Mutant,
    Output,
    Scalar,
    TaskError,
    Weight,
    Workload,
    dtype_of,
    evaluate_size,
    read_workloads,
    shape_of,
    strides_of,
)

SIZES = {"T": 7, "H": 48, "kv": 3, "row_stride": 80, "zero": 0}
EVERY = pytest.mark.parametrize(
    ("name", "device"), [(name, device) for name in task_folders() for device in ("cpu", "cuda") if load_task(name).workloads(device)]
)
"""Every task on every device that it has shapes for."""
LEAVES = st.one_of(st.sampled_from(sorted(SIZES)), st.integers(0, 10_000).map(str))
EXPRESSIONS = st.recursive(
    LEAVES,
    lambda inner: st.tuples(inner, st.sampled_from(["+", "-", "*", "//", " + ", " * "]), inner).map(lambda parts: f"({''.join(parts)})"),
    max_leaves=8,
)


@given(EXPRESSIONS)
def test_size_expressions_mean_what_python_means(expression):
    try:
        expected = eval(expression, {"__builtins__": {}}, dict(SIZES))
    except ZeroDivisionError:
        assume(False)
    assert evaluate_size(expression, SIZES) == expected


@given(st.integers(0, 2**40))
def test_plain_numbers_are_sizes(number):
    assert evaluate_size(number, {}) == number == evaluate_size(str(number), {})


@pytest.mark.parametrize(
    "expression",
    [
        "unknown", "T**2", "T/2", "T%2", "-T", "f(T)", "T if T else H", "T.real", "'T'", "T < H", "[T]", "1.5", "lambda: T",
        "__import__('os')", "T//0", "", "T +", "T\0", "(" * 400 + "T" + ")" * 400,
    ],
)  # fmt: skip
def test_other_expressions_are_refused(expression):
    with pytest.raises(TaskError, match="cannot evaluate"):
        evaluate_size(expression, SIZES)


def test_shapes_and_contiguous_strides():
    arg = Input("x", "T", "2*kv", 16)
    assert shape_of(arg, SIZES) == (7, 6, 16)
    assert strides_of(arg, SIZES) == (96, 16, 1)


def test_the_row_stride_replaces_the_first_stride_only():
    arg = Input("x", "T", "kv", 16, row_stride="row_stride")
    assert strides_of(arg, SIZES) == (80, 16, 1)


def test_without_that_size_the_rows_are_contiguous():
    arg = Input("x", "T", "H", row_stride="other_stride")
    assert strides_of(arg, SIZES) == (48, 1)


def test_scalars_and_empty_dimensions_have_strides_too():
    assert strides_of(Scalar("s", "float"), SIZES) == ()
    assert strides_of(Input("x", "zero", "H"), SIZES) == (48, 1)
    assert strides_of(Input("x", "H", "zero"), SIZES) == (1, 1)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_contiguous_strides_are_torchs(shape):
    import torch

    assert strides_of(Input("x", *shape), {}) == torch.empty(shape).stride()


def test_dtypes_follow_the_workload_unless_they_are_fixed():
    workload = Workload(name="w", device="cpu", dtype="bfloat16", sizes={})
    assert dtype_of(Output("y", "T"), workload) == "bfloat16"
    assert dtype_of(Weight("w", "T", dtype="float32"), workload) == "float32"
    assert dtype_of(Metadata("m", "T"), workload) == "int32"


GOOD_LINE = '{"name": "a", "device": "cpu", "dtype": "float32", "sizes": {"T": 1}}'


def test_workload_files_may_hold_blank_lines(tmp_path):
    path = tmp_path / "workloads.jsonl"
    path.write_text(f"\n{GOOD_LINE}\n\n{GOOD_LINE.replace('cpu', 'cuda')}\n")
    assert [w.device for w in read_workloads(path, "mine")] == ["cpu", "cuda"]


@pytest.mark.parametrize(
    "line",
    [
        "{", "7", '{"name": "a"}', GOOD_LINE.replace('"T": 1', '"T": "1"'), GOOD_LINE.replace('"T": 1', '"T": 1.5'),
        GOOD_LINE.replace('"name"', '"nam"'), GOOD_LINE[:-1] + ', "extra": 1}',
    ],
)  # fmt: skip
def test_a_bad_line_names_file_task_and_line(tmp_path, line):
    path = tmp_path / "workloads.jsonl"
    path.write_text(f"{GOOD_LINE}\n\n{line}\n")
    with pytest.raises(TaskError, match=r"task 'mine': workloads.jsonl line 3 "):
        read_workloads(path, "mine")


def test_the_smoke_workload_is_the_marked_one_else_the_first(tiny, tmp_path, task_files):
    assert tiny.smoke_workload("cpu").name == "whole"
    unmarked = GOOD_LINE.replace('"a"', '"first"') + "\n" + GOOD_LINE
    folder = task_files(tmp_path / "unmarked", workloads=unmarked)
    tiny_like = type(tiny)()
    tiny_like.folder = folder
    assert tiny_like.smoke_workload("cpu").name == "first"


def test_a_device_without_workloads_is_named(tiny):
    with pytest.raises(TaskError, match=r"tiny_scale.*no public workload for device 'cuda'"):
        tiny.smoke_workload("cuda")


@EVERY
def test_hidden_draws_stay_in_range_and_repeat_with_the_generator(name, device):
    task = load_task(name)
    drawn = task.hidden_workloads(device, random.Random(5), 60)
    assert drawn == task.hidden_workloads(device, random.Random(5), 60)
    assert drawn != task.hidden_workloads(device, random.Random(6), 60)
    for workload in drawn:
        for size, (low, high) in task.ragged[device].items():
            assert low <= workload.sizes[size] <= high
        assert task.complete(workload.sizes)
        kept = _kept(task, device, workload.sizes)
        bases = [w for w in task.workloads(device) if (w.dtype, w.source) == (workload.dtype, workload.source)]
        drawn_from = [{**_kept(task, device, base.sizes), **variant} for base in bases for variant in ({}, *task.variants.get(device, ()))]
        assert kept in drawn_from, "what is not drawn comes from one public workload, or from one variant"


def _kept(task, device, sizes):
    strides = {arg.row_stride for arg in task.signature}
    return {name: size for name, size in sizes.items() if name not in task.ragged[device] and name not in strides}


@EVERY
def test_every_variant_is_drawn(name, device):
    task = load_task(name)
    drawn = task.hidden_workloads(device, random.Random(5), 200)
    for variant in task.variants.get(device, ()):
        assert any(variant.items() <= w.sizes.items() for w in drawn), variant


@EVERY
def test_every_evaluation_has_one_variant_and_a_full_one_has_two(name, device):
    task = load_task(name)
    for seed in range(50):
        drawn = task.hidden_workloads(device, random.Random(seed), 5)
        for verified, least in ((2, 1), (4, 2)):
            sizes = [workload.sizes.items() for workload in drawn[:verified]]
            found = [variant for variant in task.variants[device] if any(variant.items() <= drawn_sizes for drawn_sizes in sizes)]
            assert len(found) >= least, (seed, found)


@pytest.mark.parametrize("name", ["rms_norm", "rope"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_drawn_row_strides_hold_a_row_and_keep_the_alignment(name, device):
    task = load_task(name)
    drawn = task.hidden_workloads(device, random.Random(5), 200)
    strides = [w.sizes.get("row_stride") for w in drawn]
    assert None in strides, "contiguous rows too"
    assert len(set(strides)) > 20
    for workload in drawn:
        if "row_stride" in workload.sizes:
            item = {"float32": 4, "bfloat16": 2}[workload.dtype]
            assert workload.sizes["row_stride"] * item % task.alignment == 0
            for arg in task.signature:
                if arg.row_stride:
                    assert workload.sizes["row_stride"] >= shape_of(arg, task.complete(workload.sizes))[1]


def test_every_other_hidden_size_lies_at_an_edge():
    task = load_task("rms_norm")
    low, high = task.ragged["cuda"]["T"]
    near = {low, low + 1, low + 2, high}
    near |= {min(max((1 << bit) + step, low), high) for bit in range(14) for step in (-1, 0, 1)}
    near |= {min(max(tile * times + step, low), high) for tile in TILES for times in range(1, high // tile + 1) for step in (-1, 0, 1)}
    drawn = [w.sizes["T"] for w in task.hidden_workloads("cuda", random.Random(5), 400)]
    assert set(drawn[::2]) <= near
    assert {low, low + 1, low + 2, high} <= set(drawn[::2])
    assert not set(drawn[1::2]) <= near
    assert any(t % 128 == 1 for t in drawn[::2])
    assert any(t % 128 == 127 for t in drawn[::2])


def test_hidden_draws_reach_both_ends_of_a_range(tiny):
    drawn = {w.sizes["T"] for w in tiny.hidden_workloads("cpu", random.Random(0), 2000)}
    assert drawn == set(range(1, 21))


def test_a_mutant_is_the_seed_with_one_edit(tiny):
    source = tiny.mutate(Mutant(name="m", seed="cpu.cpp", find="* w[h]", replace="* 1"))
    assert source == tiny.seeds()["cpu.cpp"].replace("* w[h]", "* 1")
    assert source != tiny.seeds()["cpu.cpp"]


@pytest.mark.parametrize(("find", "times"), [("no such text", 0), ("float", 6)])
def test_a_mutant_that_does_not_fit_its_seed_is_an_error(tiny, find, times):
    with pytest.raises(TaskError, match=f"mutant 'm' of 'tiny_scale'.*{times} times"):
        tiny.mutate(Mutant(name="m", seed="cpu.cpp", find=find, replace=""))


def test_mutants_are_decoded_strictly(tmp_path, task_files, tiny):
    folder = task_files(tmp_path / "strict")
    task = type(tiny)()
    task.folder = folder
    assert task.mutants() == []
    entry = '[[mutant]]\nname = "m"\nseed = "cpu.cpp"\nfind = "a"\nreplace = "b"\n'
    (folder / "mutants.toml").write_text(entry)
    assert [m.name for m in task.mutants()] == ["m"]
    (folder / "mutants.toml").write_text(entry + 'expects = ["wrong"]\n')
    with pytest.raises(TaskError, match=r"'strict'.*expects"):
        task.mutants()
    (folder / "mutants.toml").write_text("[[mutant")
    with pytest.raises(TaskError, match=r"mutants\.toml is no list of mutants"):
        task.mutants()


def test_a_mutant_of_a_seed_that_does_not_exist_is_an_error(tiny):
    with pytest.raises(TaskError, match=r"there is no seeds/triton\.py, only cpu\.cpp"):
        tiny.mutate(Mutant(name="m", seed="triton.py", find="a", replace="b"))


def test_seeds_are_the_files_with_a_known_suffix(tmp_path, task_files, tiny):
    folder = task_files(tmp_path / "seeded")
    (folder / "seeds" / "notes.txt").write_text("not a seed")
    (folder / "seeds" / "triton.py").write_text("pass")
    task = type(tiny)()
    task.folder = folder
    assert list(task.seeds()) == ["cpu.cpp", "triton.py"]
