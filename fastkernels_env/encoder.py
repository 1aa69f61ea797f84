"""Encoders over packed sequences (documents, images): what their layers hold, how it is drawn, what they compute in float64.

A task that has such layers calls its arguments as `layer_weights` does, and the start of every sequence ``cu_seqlens``. Its sizes are
``S`` sequences of ``mean`` tokens on average, ``h`` heads of ``d`` channels and ``I`` channels in the MLP; `completed` adds T and H.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from .attention import attend, packed_lengths, tensor
from .signature import Arg, Weight
from .types import Regime

if TYPE_CHECKING:
    from .recipes import Draw
    from .task import Value, Workload

LAYER_WEIGHTS = (
    "qkv_weight", "qkv_bias", "o_weight", "o_bias", "up_weight", "up_bias", "down_weight", "down_bias", "norm_weight", "norm_bias",
)
"""Names of what a layer holds."""
_BIAS = 0.3


def completed(sizes: Mapping[str, int]) -> dict[str, int]:
    """Sizes with the tokens T of all sequences and the width H."""
    return {**sizes, "T": sizes["S"] * sizes["mean"], "H": sizes["h"] * sizes["d"]}


def layer_weights(*outer: str) -> tuple[Arg, ...]:
    """The weights of a layer, in the order of `LAYER_WEIGHTS`; of several layers, whose number `outer` names."""
    return (
        Weight("qkv_weight", *outer, "3*H", "H", doc="queries, then keys, then values; in each, head by head"),
        Weight("qkv_bias", *outer, 3, "h", "d"),
        Weight("o_weight", *outer, "H", "H"),
        Weight("o_bias", *outer, "H"),
        Weight("up_weight", *outer, "I", "H"),
        Weight("up_bias", *outer, "I"),
        Weight("down_weight", *outer, "H", "I"),
        Weight("down_bias", *outer, "H"),
        Weight("norm_weight", *outer, 2, "H", doc="of the norm that belongs to the attention, then of that of the MLP"),
        Weight("norm_bias", *outer, 2, "H"),
    )


def draw_layers(draw: Draw, sizes: Mapping[str, int], dtype: torch.dtype, sharpest: float, *outer: int) -> dict[str, Value]:
    """Values of `layer_weights`.

    Args:
        draw: The draw.
        sizes: Of the workload, completed.
        dtype: Of all of them.
        sharpest: Heads look at many tokens or at few, as those of trained models: queries and keys of the first head are so many times
            those of a plain projection, of others less. The exponential of a large score should lie beyond float32, so that a softmax
            must subtract its maximum. In float32 alone: 16-bit roundings of large scores would be most of what can be seen.
        outer: Number of layers, if there are several.
    """
    heads, head, width, inner = (sizes[name] for name in ("h", "d", "H", "I"))

    def projections() -> torch.Tensor:
        values = draw.normal((*outer, 3, heads, head, width), torch.float32, width**-0.5)
        factors = (sharpest if dtype is torch.float32 else 1.0) ** (1 - torch.arange(heads, device=draw.device) / heads)
        values[..., :2, :, :, :] *= factors[:, None, None]
        return values.view(*outer, 3 * width, width).to(dtype)

    def bias(*shape: int) -> torch.Tensor:
        return draw.weight(lambda: draw.normal((*outer, *shape), dtype, _BIAS))

    return {
        "qkv_weight": draw.weight(projections), "qkv_bias": bias(3, heads, head),
        "o_weight": draw.matrix((*outer, width, width), dtype, width), "o_bias": bias(width),
        "up_weight": draw.matrix((*outer, inner, width), dtype, width), "up_bias": bias(inner),
        "down_weight": draw.matrix((*outer, width, inner), dtype, inner), "down_bias": bias(width),
        "norm_weight": draw.parameter((*outer, 2, width), dtype), "norm_bias": bias(2, width),
    }  # fmt: skip


def most_tokens(workload: Workload) -> int:
    """The length that no sequence exceeds in any draw, of however many sequences: ``spread`` of ``workload.params`` times the mean."""
    return int(workload.sizes["mean"] * workload.params["spread"])


def draw_starts(workload: Workload, draw: Draw) -> torch.Tensor:
    """Start of every sequence (int32 ``[S + 1]``).

    ``workload.params``: ``sigma``, of the logarithms of the lengths; ``spread``, the longest that is possible over the mean.
    """
    count = workload.sizes["S"]
    lengths = packed_lengths(draw, count, count * workload.sizes["mean"], workload.params["sigma"], most_tokens(workload))
    starts = torch.zeros(count + 1, dtype=torch.int32)
    starts[1:] = lengths.cumsum(0)
    return starts.to(draw.device)


def draw_epsilon(workload: Workload, draw: Draw) -> float:
    """The model's own in the `NORMAL` regime. Otherwise one that is large enough to be seen: 1e-12 could as well be left out."""
    own = workload.params["eps"]
    return own if draw.regime is Regime.NORMAL else own + 0.02 + 0.08 * float(torch.rand((), generator=draw.shared))


def boundary_moved(args: Mapping[str, Value]) -> dict[str, dict[str, Value]]:
    """For `Task.perturbed`: the last or the first token of the longest sequence goes to its neighbour."""
    starts = tensor(args, "cu_seqlens").clone()
    if len(starts) < 3 or int(starts.diff().max()) < 2:
        return {}
    longest = int(starts.diff().argmax())
    last = longest == len(starts) - 2
    starts[longest if last else longest + 1] += 1 if last else -1
    return {"a boundary": {**args, "cu_seqlens": starts}} if int(starts.diff().max()) <= int(args["max_seqlen"]) else {}


# -- in float64 ----------------------------------------------------------------------------------------------------------------


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """A projection of `x`, float64."""
    return x @ weight.double().T + bias.double()


def normed(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Layer norm of `x`, float64, without weighing: the mean of squares is that of the differences from the mean."""
    apart = x - x.mean(-1, keepdim=True)
    return apart * (apart.square().mean(-1, keepdim=True) + epsilon).rsqrt() * weight.double() + bias.double()


def mixed(qkv: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    """Attention inside of every sequence of ``qkv [T, 3, h, d]``, float64, as ``[T, H]``."""
    out = torch.zeros_like(qkv[:, 0])
    for first, end in itertools.pairwise(starts.tolist()):
        query, key, value = qkv[first:end].unbind(1)
        out[first:end] = attend(query, key, value, qkv.shape[-1] ** -0.5)[0]
    return out.flatten(1)


def encoded(x: torch.Tensor, starts: torch.Tensor, weights: Mapping[str, torch.Tensor], epsilon: float) -> torch.Tensor:
    """``x [T, H]``, float64, behind a layer of the BERT family: a norm behind each of the two sums, GELU by the error function."""
    own = weights["qkv_bias"]
    qkv = linear(x, weights["qkv_weight"], own.flatten()).view(-1, *own.shape)
    x = x + linear(mixed(qkv, starts), weights["o_weight"], weights["o_bias"])
    x = normed(x, weights["norm_weight"][0], weights["norm_bias"][0], epsilon)
    inner = torch.nn.functional.gelu(linear(x, weights["up_weight"], weights["up_bias"]))
    x = x + linear(inner, weights["down_weight"], weights["down_bias"])
    return normed(x, weights["norm_weight"][1], weights["norm_bias"][1], epsilon)


# -- what it costs -------------------------------------------------------------------------------------------------------------


def matrix_elements(sizes: Mapping[str, int]) -> int:
    """Elements of a layer's matrices: as many multiplications a token needs."""
    return 4 * sizes["H"] ** 2 + 2 * sizes["H"] * sizes["I"]


def layer_elements(sizes: Mapping[str, int]) -> int:
    """Elements of all that a layer holds."""
    return matrix_elements(sizes) + 9 * sizes["H"] + sizes["I"]


def pairs(args: Mapping[str, Value]) -> int:
    """Pairs of tokens of one sequence."""
    return int(tensor(args, "cu_seqlens").long().diff().square().sum())
