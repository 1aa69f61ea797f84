"""Eight-bit codes and scales: what quantising loses, what blocks at the edges get, what the judge accepts of codes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastkernels_env.judge.compare import compare
from fastkernels_env.quantise import (
    CODES,
    LARGEST,
    LEAST_SCALE,
    N2,
    block_scales,
    dequantise,
    nearest_codes,
    quantise,
    quantised_activation,
    quantised_matrix,
    spread,
)
from fastkernels_env.recipes import Draw
from fastkernels_env.types import Regime

GATE = N2.gates["float8_e4m3fn"]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 300), st.sampled_from([(1, 128), (128, 128), (1, 32), (4, 16)]), st.integers(0, 99))
def test_values_come_back_within_half_a_step(height, width, block, seed):
    values = torch.randn(height, width, generator=torch.Generator().manual_seed(seed)) * 3
    codes, scales = quantise(values, *block)
    assert codes.dtype is CODES
    assert scales.shape == (-(-height // block[0]), -(-width // block[1]))
    each = spread(scales.double(), values.shape, *block)
    assert bool(((dequantise(codes, scales, *block) - values).abs() <= values.abs() / 16 + each / 1024).all())


def test_the_largest_of_a_block_has_the_largest_code():
    values = torch.randn(3, 256)
    codes, _ = quantise(values, 1, 128)
    assert bool((codes.float().abs().view(3, 2, 128).amax(2) == LARGEST).all())


def test_blocks_at_the_edges_are_smaller():
    values = torch.arange(1.0, 16.0).view(3, 5)
    assert torch.equal(block_scales(values, 2, 4) * LARGEST, torch.tensor([[9.0, 10.0], [14.0, 15.0]]))
    each = [[1, 1, 1, 1, 2], [1, 1, 1, 1, 2], [3, 3, 3, 3, 4]]
    assert spread(torch.tensor([[1, 2], [3, 4]]), (3, 5), 2, 4).tolist() == each


def test_a_block_of_zeros_has_the_least_scale():
    codes, scales = quantise(torch.zeros(2, 128), 1, 128)
    assert bool((codes.float() == 0).all())
    assert scales.tolist() == [[pytest.approx(LEAST_SCALE)]] * 2


def test_no_code_is_beyond_the_largest():
    assert nearest_codes(torch.tensor([1e9, -1e9, 460.0])).float().tolist() == [LARGEST, -LARGEST, LARGEST]


def quotients():
    values = torch.randn(64, 512, dtype=torch.float64)
    return values / spread(block_scales(values, 1, 128), values.shape, 1, 128)


def test_the_nearest_codes_are_right():
    exact = quotients()
    assert compare(nearest_codes(exact), exact, GATE, 0.0).ok


@pytest.mark.parametrize("factor", [1.02, 0.98])
def test_codes_of_a_wrong_scale_are_not(factor):
    exact = quotients()
    assert not compare(nearest_codes(exact * factor), exact, GATE, 0.0).ok


def test_truncated_codes_are_not():
    exact = quotients()
    codes = nearest_codes(exact)
    bits = codes.view(torch.uint8)
    cut = torch.where(codes.double().abs() > exact.abs(), bits - 1, bits).view(CODES)
    assert not compare(cut, exact, GATE, 0.0).ok


def test_activations_and_weights_have_scales_of_their_own():
    draw = Draw(1, 2, Regime.REALISTIC, "cpu")
    for (codes, scales), shape in ((quantised_activation(draw, (40, 384)), (40, 3)), (quantised_matrix(draw, (300, 384)), (3, 3))):
        assert codes.dtype is CODES
        assert scales.shape == shape
        assert len(scales.unique()) > scales.numel() // 2


def test_codes_and_scales_of_a_shared_weight_belong_together():
    kept: list[torch.Tensor] = []
    first = quantised_matrix(Draw(1, 2, Regime.REALISTIC, "cpu", kept), (200, 256))
    again = quantised_matrix(Draw(5, 2, Regime.REALISTIC, "cpu", kept), (200, 256))
    assert all(one is other for one, other in zip(first, again, strict=True))
