"""Overflow shapes: 16-bit offsets stand for 32-bit ones, so that a CPU can show what a GPU shows at 2^31."""

from __future__ import annotations

import random
import re

import pytest
import torch

from fastkernels_env.checks import CheckList
from fastkernels_env.judge.effort import get_effort
from fastkernels_env.judge.layout import extent_of, plan_layout
from fastkernels_env.judge.overflow import LIMIT, _places, verify_overflow
from fastkernels_env.judge.scope import Scope
from fastkernels_env.recipes import HUGE, Draw
from fastkernels_env.registry import load_task, task_folders
from fastkernels_env.task import Role, shape_of, strides_of
from fastkernels_env.types import Regime, Status

SOURCE = """
    #include <fastkernels.h>

    template <typename Offset>
    static void run(tvm::ffi::TensorView out, tvm::ffi::TensorView input, tvm::ffi::TensorView weight, float factor) {
      const float *x = fk::data<float>(input), *w = fk::data<float>(weight);
      float* y = fk::data<float>(out);
      const int64_t rows = input.size(0), width = input.size(1), stride = input.stride(0);
      for (int64_t t = 0; t < rows; ++t)
        for (int64_t h = 0; h < width; ++h) y[Offset(t * width + h)] = x[Offset(t * stride + h)] * w[h] * factor;
    }

    void tiny_scale(tvm::ffi::TensorView out, tvm::ffi::TensorView input, tvm::ffi::TensorView weight, double factor) {
      if (OFFSETS == 16) run<uint16_t>(out, input, weight, float(factor));
      else run<int64_t>(out, input, weight, float(factor));
      if (OFFSETS == 99) fk::data<float>(out)[out.size(0) * out.size(1)] = 1;
    }
"""
LINES = """
    {"name": "whole", "device": "cpu", "dtype": "float32", "sizes": {"T": 16, "H": 64}, "smoke": true}
    {"name": "many", "device": "cpu", "dtype": "float32", "sizes": {"T": 3000, "H": 64}, "count": 0, "overflow": true, "sampled": "T"}
    {"name": "far", "device": "cpu", "dtype": "float32", "sizes": {"T": 6, "H": 64, "row_stride": 20000}, "count": 0, "overflow": true}
"""


@pytest.fixture(scope="module")
def task(tmp_path_factory, task_files):
    root = tmp_path_factory.mktemp("overflowing")
    task_files(root / "tiny_overflow", workloads=LINES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTKERNELS_ENV_PATH", str(root))
        return load_task("tiny_overflow")


@pytest.fixture(scope="module")
def libraries(built, task):
    return {offsets: built(task, SOURCE.replace("OFFSETS", str(offsets))) for offsets in (16, 64, 99)}


def check_of(checks):
    return next(check for check in checks.finish("") if check.name == "overflow_sizes")


def verify(evaluator, on_worker, task, library, effort="full"):
    scope = Scope(evaluator.open(), task, 5, get_effort(effort), CheckList("cpu"))
    on_worker(library, 4096, lambda session, arena, device: verify_overflow(scope, session))
    return check_of(scope.checks)


def test_overflow_shapes_are_neither_public_nor_hidden(task):
    assert [w.name for w in task.workloads("cpu")] == ["whole"]
    assert [w.name for w in task.overflow_workloads("cpu")] == ["many", "far"]
    assert {w.sizes["H"] for w in task.hidden_workloads("cpu", random.Random(1), 50)} == {64}


def test_wide_offsets_pass(evaluator, on_worker, task, libraries):
    assert verify(evaluator, on_worker, task, libraries[64]).status is Status.PASSED


def test_narrow_offsets_fail(evaluator, on_worker, task, libraries):
    check = verify(evaluator, on_worker, task, libraries[16])
    assert check.status is Status.FAILED
    assert re.search(r"out: .* on many \(T=3000, H=64; float32\)", check.detail)


def test_a_write_beside_a_buffer_fails(evaluator, on_worker, task, libraries):
    check = verify(evaluator, on_worker, task, libraries[99])
    assert (check.status, check.detail) == (Status.FAILED, "bytes beside a buffer changed")


def test_a_quick_evaluation_says_that_it_leaves_them_out(evaluator, on_worker, task, libraries):
    check = verify(evaluator, on_worker, task, libraries[16], "quick")
    assert (check.status, check.detail) == (Status.NOT_RUN, "not part of a quick evaluation")


def test_a_waived_check_blocks_nothing_on_a_gpu(task):
    scope = Scope(None, task, 5, get_effort("quick"), CheckList("cuda"))
    assert "overflow_sizes" in scope.checks.missing()
    scope.checks.waive("overflow_sizes", "not part of a quick evaluation")
    assert "overflow_sizes" not in scope.checks.missing()


def test_the_oracle_is_computed_at_both_ends_and_where_offsets_wrap(task):
    many = load_task("silu_and_mul").overflow_workloads("cuda")[0]
    places = _places(load_task("silu_and_mul"), many, "T", random.Random(1))
    rows, width = many.sizes["T"], many.sizes["I"]
    assert {0, 1, rows - 2, rows - 1} <= set(places)
    for stride in (width, 2 * width):  # output and input
        first = LIMIT // stride
        assert {first - 1, first, first + 1} <= set(places)
    assert len(places) < 30


# Of tasks over several GPUs only some have such shapes.
ON_GPUS = [name for name in task_folders() if load_task(name).workloads("cuda")]
WANTED = [name for name in ON_GPUS if load_task(name).ranks == 1 or load_task(name).overflow_workloads("cuda")]


@pytest.mark.parametrize("name", WANTED)
def test_every_task_has_shapes_beyond_the_limit_that_fit_a_gpu(name):
    declared = load_task(name)
    shapes = declared.overflow_workloads("cuda")
    assert shapes
    for workload in shapes:
        sizes = declared.complete(workload.sizes)
        beyond = 0
        for arg in declared.signature:
            if arg.role is not Role.SCALAR:
                extents, strides = shape_of(arg, sizes), strides_of(arg, sizes)
                beyond += sum((extent - 1) * stride for extent, stride in zip(extents, strides, strict=True)) > LIMIT
        assert beyond, "no argument has an offset beyond 2^31"
        assert workload.sampled in ("", *sizes)
        scalars = {arg.name: 1 for arg in declared.signature if arg.role is Role.SCALAR}
        full = type(workload)(name="w", device="cuda", dtype=workload.dtype, sizes=sizes)
        layout = plan_layout(declared, full, [scalars])
        assert layout.size < 20e9
        assert max(extent_of(ref) for ref in layout.slots[0].refs.values()) > 4e9


def test_huge_tensors_repeat_a_block_that_no_power_of_two_repeats(monkeypatch):
    monkeypatch.setattr("fastkernels_env.recipes.HUGE", 1 << 12)
    monkeypatch.setattr("fastkernels_env.recipes._BLOCK", 1 << 10)
    values = Draw(1, 2, Regime.REALISTIC, "cpu").activation((8, 32, 64), torch.bfloat16).view(-1, 64)
    period = (1 << 10) // 64 | 1
    assert bool((values[period:] == values[:-period]).all())
    for shift in (1, 16, 64, 128):
        assert not bool((values[shift:] == values[:-shift]).all(1).any())
    assert HUGE > 1 << 29
