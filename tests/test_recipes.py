"""Input recipes: what they promise about values and structure, checked on what they draw."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastkernels_env.recipes import Draw
from fastkernels_env.types import Regime

REGIMES = (Regime.NORMAL, Regime.REALISTIC, Regime.SKEWED, Regime.EMPTY)


def draw(seed=1, shared=2, regime=Regime.REALISTIC):
    return Draw(seed, shared, regime, "cpu")


RECIPES = {
    "normal": lambda d: d.normal((40, 30), torch.float32, 0.5),
    "activation": lambda d: d.activation((40, 30), torch.float32),
    "parameter": lambda d: d.parameter((300,), torch.float32),
    "matrix": lambda d: d.matrix((40, 30), torch.float32, 30),
    "lengths": lambda d: d.lengths(50, 200.0, 0.6, 8, 4096),
    "permutation": lambda d: d.permutation(200),
    "ids": lambda d: d.routing(60, 32, 4)[0],
    "weights": lambda d: d.routing(60, 32, 4)[1],
}


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_same_seeds_draw_the_same(recipe, regime):
    make = RECIPES[recipe]
    assert torch.equal(make(draw(regime=regime)), make(draw(regime=regime)))
    assert not torch.equal(make(draw(regime=regime)), make(draw(seed=9, regime=regime)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("regime", REGIMES)
def test_values_have_the_dtype_and_are_finite(dtype, regime):
    for values in (draw(regime=regime).activation((64, 128), dtype), draw(regime=regime).matrix((64, 128), dtype, 128)):
        assert values.dtype is dtype
        assert bool(values.isfinite().all())


def test_realistic_activations_have_outliers_and_uneven_channels():
    values = draw().activation((2000, 64), torch.float32)
    outliers = (values.abs() >= 20).double().mean()
    assert 0.0007 < outliers < 0.0013
    assert float(values.abs().max()) <= 50
    scales = values.clamp(-15, 15).std(0)
    assert float(scales.max() / scales.min()) > 2


def test_normal_activations_have_neither():
    values = draw(regime=Regime.NORMAL).activation((2000, 64), torch.float32)
    assert float(values.abs().max()) < 10
    scales = values.std(0)
    assert float(scales.max() / scales.min()) < 1.2
    assert abs(float(values.std()) - 1) < 0.02


def test_a_scale_scales_everything():
    once, twice = draw().activation((50, 20), torch.float32), draw().activation((50, 20), torch.float32, 2.0)
    assert torch.equal(once * 2, twice)


def test_empty_activations_are_empty():
    assert draw(regime=Regime.EMPTY).activation((0, 64), torch.float32).shape == (0, 64)
    assert draw().activation((4, 0), torch.bfloat16).shape == (4, 0)


def test_parameters_are_never_ones():
    values = draw().parameter((20_000,), torch.float32)
    assert 0.69 < float(values.min()) < 0.75
    assert 1.25 < float(values.max()) < 1.31
    assert float((values - 1).abs().median()) > 0.05


def test_matrices_keep_the_scale_of_a_product():
    product = draw().normal((200, 1024), torch.float64) @ draw(seed=5).matrix((1024, 200), torch.float64, 1024)
    assert abs(float(product.std()) - 1) < 0.05
    assert math.isclose(float(draw().matrix((1000, 400), torch.float32, 400).std()), 1 / 20, rel_tol=0.02)


@settings(max_examples=60)
@given(st.integers(1, 60), st.integers(1, 64), st.integers(0, 5000), st.sampled_from(REGIMES), st.integers(0, 99))
def test_lengths_stay_in_range_and_share_their_multiset(count, low, extra, regime, shared):
    drawn = [draw(seed, shared, regime).lengths(count, low + extra / 3, 0.8, low, low + extra) for seed in (1, 2)]
    for lengths in drawn:
        assert lengths.dtype is torch.int64
        assert lengths.shape == (count,)
        assert low <= int(lengths.min())
        assert int(lengths.max()) <= low + extra
    assert torch.equal(drawn[0].sort().values, drawn[1].sort().values), "every entry of a ring must cost the same"


def test_lengths_of_another_structure_differ():
    first, second = (draw(shared=shared).lengths(50, 200.0, 0.6, 8, 4096).sort().values for shared in (2, 3))
    assert not torch.equal(first, second)


def test_skewed_lengths_hold_one_long_sequence_among_short_ones():
    lengths = draw(regime=Regime.SKEWED).lengths(30, 500.0, 0.6, 8, 4096).sort().values
    assert int(lengths[-1]) == 4096
    assert int(lengths[-2]) < 4 * 8


@settings(max_examples=60)
@given(st.integers(1, 50), st.integers(1, 64), st.integers(1, 8), st.sampled_from(REGIMES), st.integers(0, 99))
def test_routing_is_distinct_in_a_row_and_normalised(tokens, experts, top_k, regime, seed):
    top_k = min(top_k, experts)
    ids, weights = draw(seed, regime=regime).routing(tokens, experts, top_k)
    assert ids.shape == weights.shape == (tokens, top_k)
    assert int(ids.min()) >= 0
    assert int(ids.max()) < experts
    assert all(len(set(row)) == top_k for row in ids.tolist())
    assert weights.dtype is torch.float32
    assert bool((weights > 0).all())
    torch.testing.assert_close(weights.sum(1), torch.ones(tokens))


def test_no_tokens_can_be_routed():
    ids, weights = draw(regime=Regime.EMPTY).routing(0, 16, 4)
    assert ids.shape == weights.shape == (0, 4)


def counts(regime, seed=1, shared=2):
    return torch.bincount(draw(seed, shared, regime).routing(400, 64, 4)[0].flatten(), minlength=64)


def test_skewed_routing_has_hot_and_empty_experts():
    hit = counts(Regime.SKEWED)
    assert int((hit > 0).sum()) == 8
    assert int((hit == 0).sum()) == 56


def test_realistic_routing_is_uneven_and_normal_routing_is_even():
    realistic, normal = counts(Regime.REALISTIC).double(), counts(Regime.NORMAL).double()
    assert float(realistic.std() / realistic.mean()) > 0.5
    assert float(normal.std() / normal.mean()) < 0.4


def test_draws_of_one_ring_share_the_histogram_but_not_the_experts():
    first, second = counts(Regime.REALISTIC, seed=1), counts(Regime.REALISTIC, seed=2)
    assert torch.equal(first.sort().values, second.sort().values)
    assert not torch.equal(first, second)
    assert not torch.equal(first.sort().values, counts(Regime.REALISTIC, shared=5).sort().values)


def test_weights_are_drawn_once_for_draws_that_share_them():
    kept = []
    first, second = (Draw(seed, 1, Regime.REALISTIC, "cpu", kept) for seed in (1, 2))
    shape, dtype = (4, 8), torch.float32
    drawn = [(d.matrix(shape, dtype, 8), d.activation(shape, dtype), d.parameter((8,), dtype)) for d in (first, second)]
    assert drawn[0][0] is drawn[1][0]
    assert drawn[0][2] is drawn[1][2]
    assert not torch.equal(drawn[0][1], drawn[1][1])
    assert len(kept) == 2
    alone = Draw(1, 1, Regime.REALISTIC, "cpu")
    assert torch.equal(alone.matrix((4, 8), torch.float32, 8), drawn[0][0])
    assert not torch.equal(alone.matrix((4, 8), torch.float32, 8), drawn[0][0])


def test_rows_vary_in_every_way_and_only_out_of_smoke():
    plain = torch.ones(4000, 8).cumsum(1).mul_(torch.tensor([1.0, -1.0]).repeat(4))
    assert torch.equal(draw(regime=Regime.NORMAL).vary_rows(plain.clone(), 100.0, 1e-3), plain)
    varied = draw().vary_rows(plain.clone(), 100.0, 1e-3)
    found = {
        "large": varied[:, 0] == 100, "small": varied[:, 0] == 1e-3, "zeros": (varied == 0).all(1), "equal": (varied == 1).all(1),
        "one sign": (varied == plain.abs()).all(1), "as they were": (varied == plain).all(1),
    }  # fmt: skip
    assert sum(int(rows.sum()) for rows in found.values()) == len(plain)
    for kind, rows in found.items():
        assert (2000 if kind == "as they were" else 60) < int(rows.sum()) < (4000 if kind == "as they were" else 200), kind


def test_some_rows_of_a_matrix_have_one_sign_where_a_task_asks_for_it():
    matrix = draw().matrix((640, 50), torch.float32, 50, one_sign=True)
    assert 0 < int((matrix >= 0).all(1).sum()) <= 20
    smoke = draw(regime=Regime.NORMAL)
    for other in (draw().matrix((640, 50), torch.float32, 50), smoke.matrix((640, 50), torch.float32, 50, one_sign=True)):
        assert not bool((other >= 0).all(1).any())
