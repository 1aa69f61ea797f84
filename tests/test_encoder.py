"""Pieces of encoder tasks: the float64 layer against torch's own, what is drawn, what a moved boundary is."""

from __future__ import annotations

import itertools

import pytest
import torch

from fastkernels_env import encoder
from fastkernels_env.recipes import Draw
from fastkernels_env.signature import shape_of
from fastkernels_env.task import Workload
from fastkernels_env.types import Regime

SIZES = {"S": 3, "mean": 5, "h": 2, "d": 8, "I": 24, "L": 2}
PARAMS = {"sigma": 0.6, "spread": 2, "eps": 1e-5}


def workload(**sizes):
    return Workload(name="w", device="cpu", dtype="float64", sizes=encoder.completed({**SIZES, **sizes}), params=PARAMS)


def draw(regime=Regime.REALISTIC, seed=1):
    return Draw(seed, 2, regime, "cpu")


def test_a_layer_is_that_of_torch():
    sizes = workload().sizes
    weights = encoder.draw_layers(draw(), sizes, torch.float64, 1.0)
    starts = encoder.draw_starts(workload(), draw())
    x = draw().normal((sizes["T"], sizes["H"]), torch.float64)
    layer = torch.nn.TransformerEncoderLayer(sizes["H"], sizes["h"], sizes["I"], 0.0, "gelu", 1e-3, batch_first=True).double().eval()
    held = layer.self_attn.in_proj_weight, layer.self_attn.in_proj_bias, layer.self_attn.out_proj.weight, layer.self_attn.out_proj.bias
    held += layer.linear1.weight, layer.linear1.bias, layer.linear2.weight, layer.linear2.bias
    with torch.no_grad():
        for parameter, name in zip(held, encoder.LAYER_WEIGHTS, strict=False):
            parameter.copy_(weights[name].view(parameter.shape))
        for number, norm in enumerate((layer.norm1, layer.norm2)):
            norm.weight.copy_(weights["norm_weight"][number])
            norm.bias.copy_(weights["norm_bias"][number])
    found = encoder.encoded(x, starts, weights, 1e-3)
    # With gradients, since torch has a path of its own without them.
    expected = torch.cat([layer(x[None, first:end])[0] for first, end in itertools.pairwise(starts.tolist())]).detach()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("outer", [(), ("L",)])
def test_weights_have_the_shapes_of_the_signature(outer):
    sizes = workload().sizes
    values = encoder.draw_layers(draw(), sizes, torch.bfloat16, 4.0, *(sizes[name] for name in outer))
    assert tuple(arg.name for arg in encoder.layer_weights(*outer)) == encoder.LAYER_WEIGHTS == tuple(values)
    for arg in encoder.layer_weights(*outer):
        assert tuple(values[arg.name].shape) == shape_of(arg, sizes)
        assert values[arg.name].dtype is torch.bfloat16


def test_the_first_head_looks_at_the_fewest_tokens():
    sizes = encoder.completed({**SIZES, "h": 4, "d": 64})
    qkv = encoder.draw_layers(draw(), sizes, torch.float32, 4.0)["qkv_weight"].view(3, 4, 64, -1)
    scale = qkv.flatten(2).std(-1) * sizes["H"] ** 0.5
    torch.testing.assert_close(scale[0], 4 ** (1 - torch.arange(4) / 4), rtol=0.05, atol=0)
    torch.testing.assert_close(scale[2], torch.ones(4), rtol=0.05, atol=0)


@pytest.mark.parametrize("regime", [Regime.NORMAL, Regime.REALISTIC, Regime.SKEWED])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_sequences_fill_the_tokens(regime, count):
    starts = encoder.draw_starts(workload(S=count), draw(regime))
    assert starts.dtype is torch.int32
    assert int(starts[-1]) == 5 * count
    assert not count or int(starts.diff().max()) <= encoder.most_tokens(workload(S=count))


def test_epsilon_is_the_models_own_or_one_that_shows():
    assert encoder.draw_epsilon(workload(), draw(Regime.NORMAL)) == PARAMS["eps"]
    assert 0.02 <= encoder.draw_epsilon(workload(), draw()) <= 0.1 + PARAMS["eps"]
    assert encoder.draw_epsilon(workload(), draw(seed=5)) == encoder.draw_epsilon(workload(), draw(seed=6)), "one for a ring"


def test_a_moved_boundary_keeps_the_tokens():
    for starts in ([0, 2, 7, 9], [0, 5, 7], [0, 2, 7]):
        args = {"cu_seqlens": torch.tensor(starts, dtype=torch.int32), "max_seqlen": 5}
        moved = encoder.boundary_moved(args)["a boundary"]["cu_seqlens"]
        assert (moved != args["cu_seqlens"]).sum() == 1
        assert int(moved.diff().max()) == 4
        assert args["cu_seqlens"].tolist() == starts
    for starts in ([0, 3], [0, 1, 2], [0]):
        assert not encoder.boundary_moved({"cu_seqlens": torch.tensor(starts), "max_seqlen": 3})
    assert not encoder.boundary_moved({"cu_seqlens": torch.tensor([0, 3, 6]), "max_seqlen": 3}), "one would be too long"


def test_elements_are_counted():
    sizes = workload().sizes
    held = encoder.draw_layers(draw(), sizes, torch.float32, 1.0)
    assert encoder.layer_elements(sizes) == sum(values.numel() for values in held.values())
    assert encoder.matrix_elements(sizes) == sum(held[name].numel() for name in ("qkv_weight", "o_weight", "up_weight", "down_weight"))
