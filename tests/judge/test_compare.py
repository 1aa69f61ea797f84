"""The acceptance rule: what is right in its dtype passes, whatever a loose test would overlook fails."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastkernels_env.judge.compare import all_close, compare
from fastkernels_env.task import N1, Gate

FLOATS = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def name(dtype):
    return str(dtype).removeprefix("torch.")


def judged(actual, expected, **options):
    dtype = name(actual.dtype)
    return compare(actual, expected, N1.gates[dtype], N1.rms_floor[dtype], **options)


def truth(rows=40, width=96, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, generator=generator, dtype=torch.float64) * scale


@settings(max_examples=150)
@given(st.sampled_from(FLOATS), st.integers(1, 70), st.integers(1, 70), st.integers(0, 999), st.sampled_from([1e-3, 1.0, 30.0]))
def test_the_correctly_rounded_result_always_passes(dtype, rows, width, seed, scale):
    expected = truth(rows, width, seed, scale)
    result = judged(expected.to(dtype, copy=True), expected)
    assert result.ok, result.describe()
    assert result.elements == rows * width
    assert result.nonfinite == 0


@settings(max_examples=60)
@given(st.lists(st.integers(1, 6), max_size=4), st.sampled_from(FLOATS), st.integers(0, 99))
def test_the_rank_does_not_matter(shape, dtype, seed):
    expected = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert judged(expected.to(dtype, copy=True), expected).ok
    if expected.abs().max() > 0.1:
        assert not judged((-expected).to(dtype), expected).ok


@pytest.mark.parametrize("dtype", FLOATS)
def test_products_accumulated_in_float32_pass_unless_float64_is_due(dtype):
    x, w = truth(64, 512).to(dtype), truth(512, 128, 1, 512**-0.5).to(dtype)
    expected = x.double() @ w.double()
    assert judged((x.float() @ w.float()).to(dtype), expected).ok is (dtype is not torch.float64)


@settings(max_examples=100)
@given(st.integers(0, 999), st.sampled_from([torch.bfloat16, torch.float16]))
def test_a_large_element_that_is_rounded_little_sets_no_limit_for_the_others(seed, dtype):
    """Two roundings, where outliers make up the whole: as a gated activation that is computed in two steps."""
    gate, up = truth(32, 96, seed), truth(32, 96, seed + 1)
    gate[3] *= 40
    gate[3, 5], up[3, 5] = 60.0, 64.0 * (1 + 2**-14)
    gate[9, 7] *= 30
    gate, up = gate.to(dtype).double(), up.double()
    up = up.to(dtype).double()
    expected = torch.nn.functional.silu(gate) * up
    result = judged((torch.nn.functional.silu(gate).to(dtype) * up.to(dtype)), expected)
    assert result.ok, result.describe()


def test_what_the_dtype_holds_exactly_must_be_met_exactly():
    expected = truth(64, 96).bfloat16().double()
    actual = expected.bfloat16()
    assert judged(actual, expected).ok
    actual[3, 5] *= 1 + 2**-7
    assert not judged(actual, expected).ok


def test_products_accumulated_in_bfloat16_fail():
    x, w = truth(64, 512).bfloat16(), truth(512, 128, 1, 512**-0.5).bfloat16()
    total = torch.zeros(64, 128, dtype=torch.bfloat16)
    for k in range(512):
        total += x[:, k : k + 1] * w[k]
    assert not judged(total, x.double() @ w.double()).ok


ERRORS = {
    "a swapped row": lambda a: a.__setitem__(7, a[8].clone()),
    "a negated row": lambda a: a[7].neg_(),
    "a dropped row": lambda a: a[7].zero_(),
    "a doubled row": lambda a: a[-1].mul_(2),
    "one NaN": lambda a: a[3].__setitem__(5, math.nan),
    "one infinity": lambda a: a[3].__setitem__(5, math.inf),
    "one wild element": lambda a: a[3].__setitem__(5, 1e4),
    "everything 1 % too large": lambda a: a.mul_(1.01),
    "a constant": lambda a: a.fill_(0.5),
    "zeros": lambda a: a.zero_(),
    "half the columns": lambda a: a[:, 48:].zero_(),
    "shifted by one column": lambda a: a.copy_(a.roll(1, 1)),
    "rows reversed": lambda a: a.copy_(a.flip(0)),
}  # fmt: skip


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("error", ERRORS)
def test_wrong_results_fail(error, dtype):
    expected = truth(400, 96)
    actual = expected.to(dtype, copy=True)
    ERRORS[error](actual)
    assert not judged(actual, expected).ok


@settings(max_examples=20)
@given(st.integers(0, 399), st.sampled_from([torch.float32, torch.bfloat16, torch.float16]), st.floats(0.001, 1.0))
def test_one_dropped_row_fails_whichever_and_however_small_it_is(row, dtype, share):
    expected = truth(400, 96)
    expected[row] *= max(share, 0.05)
    actual = expected.to(dtype, copy=True)
    actual[row] = 0
    result = judged(actual, expected)
    assert not result.ok
    assert result.worst.name == f"row {row}"


def test_one_dropped_head_of_many_fails():
    expected = truth(64 * 32, 128)
    actual = expected.to(torch.bfloat16)
    actual.view(64, 32, 128)[10, 31] = 0
    result = judged(actual.view(64, 32, 128), expected.view(64, 32, 128))
    assert not result.ok
    assert result.worst.name == "row 351"
    assert "worst row 351" in result.describe()


def test_the_loose_test_accepts_what_the_rule_does_not():
    """Why there is a rule: the same error, both verdicts."""
    expected = truth(400, 96, scale=0.5)
    slightly_off = (expected * 1.008).to(torch.bfloat16)
    assert all_close(slightly_off, expected, Gate(1e-2, 1e-2))
    assert not judged(slightly_off, expected).ok
    dropped = (truth(400, 96, scale=1e-3)).to(torch.bfloat16)
    small = truth(400, 96, scale=1e-3)
    dropped[7] = 0
    assert all_close(dropped, small, Gate(1e-2, 1e-2))
    assert not judged(dropped, small).ok


def test_the_loose_test_never_accepts_nan():
    expected = truth(4, 4)
    actual = expected.float()
    assert all_close(actual, expected, Gate(1e-4, 1e-4))
    actual[0, 0] = math.nan
    assert not all_close(actual, expected, Gate(1e9, 1e9))


def test_rows_that_cancel_are_not_judged_against_their_own_smallness():
    expected = truth(100, 96)
    expected[5] *= 1e-9
    actual = expected.float()
    actual[5] += 1e-8
    assert judged(actual, expected).ok
    actual[5] += 1e-2
    assert not judged(actual, expected).ok


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_infinities_and_nans_must_be_the_oracles(dtype):
    expected = truth(10, 10)
    expected[0, 0], expected[1, 1], expected[2, 2] = math.inf, -math.inf, math.nan
    right = expected.to(dtype, copy=True)
    assert judged(right, expected).ok
    for row, value in ((0, -math.inf), (0, 1.0), (0, math.nan), (1, 3e38), (2, 0.0), (2, math.inf)):
        wrong = right.clone()
        wrong[row, row] = value
        result = judged(wrong, expected)
        assert not result.ok, (row, value)
        assert result.nonfinite == 1
        assert "NaN or infinite" in result.describe()


def test_what_overflows_in_the_output_dtype_must_overflow():
    expected = truth(200, 96)
    expected[3, 4] = 66_000.0  # infinite in float16
    rounded = expected.to(torch.float16)
    assert bool(rounded[3, 4].isinf())
    assert judged(rounded, expected).ok
    saturated = rounded.clone()
    saturated[3, 4] = 65_504.0
    assert not judged(saturated, expected).ok


def test_an_overflow_does_not_hide_other_errors():
    expected = truth(200, 96)
    expected[3, 4] = 66_000.0
    actual = (expected * 1.01).to(torch.float16)
    assert not judged(actual, expected).ok
    actual[3, 4] = 65_504.0
    assert not judged(actual, expected).ok


@settings(max_examples=60)
@given(st.integers(0, 999), st.integers(1, 8), st.sampled_from([512, 2048]))
def test_rounding_of_intermediate_results_passes_where_production_rounds_them(seed, rows, width):
    """Experts' outputs rounded before they are summed: an element that cancels errs as much as its neighbours."""
    parts = truth(2 * rows, width, seed).reshape(2, rows, width)
    expected = parts.sum(0)
    rounded = [part.to(torch.bfloat16).double() * (1 + 2**-9 * truth(rows, width, seed + which)) for which, part in enumerate(parts)]
    production = (rounded[0] + rounded[1]).to(torch.bfloat16)
    known = judged(production, expected).rms
    result = judged(production, expected, baseline_rms=known)
    assert result.worst_gates <= 10
    assert result.outside <= 0.01 + 4 / (rows * width)
    assert result.outside <= judged(production, expected).outside


@pytest.mark.parametrize("wrong", ["element", "row"])
def test_a_known_error_excuses_nothing_else(wrong):
    expected = truth(64, 512)
    noisy = (expected * (1 + 2e-3 * truth(64, 512, 1))).to(torch.bfloat16)
    known = judged(noisy, expected).rms
    assert judged(noisy, expected, baseline_rms=known).ok
    noisy[3, 7 : 8 if wrong == "element" else 512] *= -1
    assert not judged(noisy, expected, baseline_rms=known).ok


def test_the_limit_follows_an_honest_baseline_but_not_past_the_gates():
    expected = truth(200, 96)
    noisy = (expected * 1.004).to(torch.bfloat16)
    tight = judged(noisy, expected)
    assert not tight.ok
    assert judged(noisy, expected, baseline_rms=tight.rms).ok
    assert not judged((expected * 1.2).to(torch.bfloat16), expected, baseline_rms=1.0).ok


@settings(max_examples=60)
@given(st.sampled_from([torch.int32, torch.int64, torch.uint8, torch.bool]), st.integers(1, 30), st.integers(0, 99))
def test_integers_are_compared_exactly(dtype, count, seed):
    expected = torch.randint(0, 2, (count, 3), generator=torch.Generator().manual_seed(seed)).to(dtype)
    assert judged_exactly(expected.clone(), expected).ok
    actual = expected.clone()
    actual[count // 2, 1] = 1 - int(actual[count // 2, 1])
    result = judged_exactly(actual, expected)
    assert not result.ok
    assert math.isclose(result.outside, 1 / (3 * count))
    assert not all_close(actual, expected, Gate(10, 10))


def judged_exactly(actual, expected):
    return compare(actual, expected, Gate(0, 0), 0.0)


def test_large_integers_do_not_pass_through_floats():
    expected = torch.tensor([2**53, 2**53 + 2])
    assert judged_exactly(expected.clone(), expected).ok
    assert not judged_exactly(expected + 1, expected).ok


@pytest.mark.parametrize("shape", [(0,), (0, 64), (4, 0), (0, 8, 64), (3, 0, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int32])
def test_nothing_is_right(shape, dtype):
    expected = torch.zeros(shape, dtype=torch.float64 if dtype.is_floating_point else dtype)
    result = compare(torch.zeros(shape, dtype=dtype), expected, Gate(1e-2, 1e-2), 0.0)
    assert result.ok
    assert result.elements == 0


def test_zeros_must_be_zeros():
    expected = torch.zeros(20, 20, dtype=torch.float64)
    assert judged(torch.zeros(20, 20), expected).ok
    assert not judged(torch.full((20, 20), 1e-3), expected).ok


def test_a_gate_without_absolute_part_still_sees_every_error():
    expected = truth(20, 20)
    expected[0, 0] = 0.0
    actual = expected.float()
    assert compare(actual, expected, Gate(0.0, 1e-3), 1.0).ok
    actual[5, 5] *= 1.5
    assert not compare(actual, expected, Gate(0.0, 1e-3), 1.0).ok


@pytest.mark.parametrize("shapes", [((4, 1), (4, 4)), ((4,), (4, 4)), ((1, 4, 4), (4, 4)), ((4, 4), (4,)), ((), (1,))])
def test_shapes_do_not_broadcast(shapes):
    actual, expected = (torch.zeros(shape, dtype=torch.float64) for shape in shapes)
    with pytest.raises(ValueError, match="expected an output of shape"):
        compare(actual, expected, Gate(1, 1), 1.0)


def test_strided_outputs_compare_like_contiguous_ones():
    expected = truth(30, 40)
    wide = torch.full((30, 64), math.nan)
    wide[:, :40] = expected
    assert judged(wide[:, :40], expected).ok
    assert judged(expected.float().t().contiguous().t(), expected).ok


def test_statistics_do_not_depend_on_how_rows_are_cut():
    expected = truth(6000, 96)
    actual = (expected * 1.001).to(torch.bfloat16)
    whole, halves = judged(actual, expected), [judged(actual[i : i + 3000], expected[i : i + 3000]) for i in (0, 3000)]
    assert whole.elements == sum(h.elements for h in halves)
    assert math.isclose(whole.outside, sum(h.outside for h in halves) / 2)
    assert whole.worst_gates == max(h.worst_gates for h in halves)
