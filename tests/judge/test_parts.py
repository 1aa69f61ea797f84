"""Parts of an output: a wrong column or group fails however small its share, and chance alone does not."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastkernels_env.judge.compare import compare
from fastkernels_env.judge.parts import Parts
from fastkernels_env.registry import load_task
from fastkernels_env.task import N1

DTYPES = [torch.float32, torch.bfloat16]


def truth(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def judged(actual, expected, **groups):
    dtype = str(actual.dtype).removeprefix("torch.")
    return compare(actual, expected, N1.gates[dtype], N1.rms_floor[dtype], 0.0, groups)


COLUMN_ERRORS = {
    "dropped": lambda column: column.zero_(),
    "scaled": lambda column: column.mul_(1.05),
    "negated": lambda column: column.neg_(),
    "that of another": lambda column: column.copy_(column.roll(1, 0)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("error", COLUMN_ERRORS)
def test_one_wrong_column_of_many_fails_and_is_named(error, dtype):
    expected = truth(300, 4000)
    expected[:, 2717] *= 0.2
    actual = expected.to(dtype, copy=True)
    assert judged(actual, expected).ok
    COLUMN_ERRORS[error](actual[:, 2717])
    result = judged(actual, expected)
    assert not result.ok
    assert result.worst.name == "column 2717"
    assert "worst column 2717" in result.describe()
    assert result.outside < 0.01
    assert result.rms < 0.01, "the whole hardly shows it"


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_group_that_is_off_by_less_than_a_row_may_be_fails(dtype):
    rows = 64 * 32
    expected = truth(rows, 128)
    actual = expected.to(dtype, copy=True)
    head = torch.arange(32).repeat(64)
    step = 2.5 * judged(actual, expected).limit
    actual[head == 31] = (expected[head == 31] * (1 + step)).to(dtype)
    assert judged(actual, expected).ok, "rows alone allow it"
    result = judged(actual, expected, head=head)
    assert not result.ok
    assert result.worst.name == "head 31"


def test_groups_may_be_parts_of_rows_or_several_rows():
    expected = truth(50, 12 * 64)
    actual = expected.float()
    head, sequence = torch.arange(12).repeat(50), torch.arange(10)
    assert judged(actual, expected, head=head, sequence=sequence).ok
    actual.view(50, 12, 64)[:, 7] *= 1 + 2.5e-5
    result = judged(actual, expected, head=head, sequence=sequence)
    assert not result.ok
    assert result.worst.name == "head 7"
    actual = expected.float()
    actual[15:20] *= 1 + 2.5e-5
    assert judged(actual, expected, head=head, sequence=sequence).worst.name == "sequence 3"


@pytest.mark.parametrize("ids", [7, 48, 5000])
def test_ids_that_do_not_divide_the_output_are_refused(ids):
    with pytest.raises(ValueError, match=r"'head': .* ids do not divide an output of 10 rows of 96"):
        Parts(10, 96, {"head": torch.zeros(ids, dtype=torch.int64)})


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 12), st.integers(1, 3000), st.integers(0, 10**6), st.sampled_from([1.0, 1.7]), st.sampled_from(DTYPES))
def test_errors_at_the_limit_of_the_whole_fail_no_part_by_chance(rows, width, seed, roundings, dtype):
    """Independent errors of the size that honest kernels have (an intermediate rounded once, for instance) stay inside in every part."""
    expected = truth(rows, width, seed=seed)
    actual = expected.to(dtype)
    base = 1e-3 if dtype is torch.bfloat16 else 4e-6
    noise = truth(rows, width, seed=seed + 1) * base * roundings * math.sqrt(float(expected.square().mean()))
    result = judged((expected + noise).to(dtype), expected, group=torch.arange(rows) % 3)
    if result.rms <= result.limit:
        assert result.worst.excess <= 1, (result.describe(), result.worst)
    assert judged(actual, expected, group=torch.arange(rows) % 3).ok


def test_a_quiet_part_is_judged_against_what_is_usual():
    expected = truth(100, 96)
    expected[:, 5] *= 1e-9
    actual = expected.float()
    actual[:, 5] += 1e-8
    assert judged(actual, expected).ok
    actual[:, 5] += 1e-2
    assert not judged(actual, expected).ok


def test_large_rows_do_not_make_small_ones_quiet():
    expected = truth(100, 96)
    expected[:10] *= 1e4
    expected[50] *= 1e-1
    actual = expected.to(torch.bfloat16)
    assert judged(actual, expected).ok
    actual[50] = 0
    result = judged(actual, expected)
    assert not result.ok
    assert result.worst.name == "row 50"


def test_nothing_and_zeros_have_no_wrong_part():
    for shape in ((0, 8), (4, 0), (3, 5), (1, 1)):
        expected = torch.zeros(shape, dtype=torch.float64)
        assert judged(expected.float(), expected, head=torch.arange(shape[0])).ok


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("gqa_decode", {"out": {"head", "key-value head", "sequence"}, "lse": {"head", "key-value head", "sequence"}}),
        ("moe_gemm", {"C": {"expert"}}), ("fused_experts", {"out": {"expert"}}), ("rope", {"query": {"head"}, "key": {"head"}}),
    ],
)  # fmt: skip
def test_one_dropped_group_of_a_task_fails(name, kinds):
    from fastkernels_env.judge.cases import make_case
    from fastkernels_env.judge.verify import compare_output
    from fastkernels_env.types import Regime

    task = load_task(name)
    case = make_case(task, task.smoke_workload("cpu"), Regime.REALISTIC, 3, "cpu")
    groups = task.groups(case.args)
    assert {output: set(found) for output, found in groups.items()} == kinds
    for output, found in groups.items():
        expected = case.expected[output]
        dtype = torch.float32 if output == "lse" else getattr(torch, case.workload.dtype)
        for ids in found.values():
            group = int(ids[len(ids) // 2])
            actual = expected.to(dtype, copy=True)
            actual.view(len(ids), -1)[ids == group] = 0
            assert not compare_output(task, case, output, actual).ok
