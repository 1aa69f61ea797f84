"""Pieces of layers (of decoders, encoders, diffusion transformers): their inner operations, and what some compute, in float64."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from .ops import Op
from .signature import InOut, Input, Metadata, Output, Scalar, Weight

RMS_NORM = Op(
    "rms_norm",
    "out[t, i] = input[t, i] / sqrt(mean over i of input[t, i]^2 + epsilon) * weight[i]. Compute in float32 or better and round once.",
    (Output("out", "T", "H"), Input("input", "T", "H"), Weight("weight", "H"), Scalar("epsilon", "float")),
)
LINEAR = Op(
    "linear",
    "out[t, n] = sum over k of input[t, k] * weight[n, k]. Accumulate in float32 or better and round once.",
    (Output("out", "T", "N"), Input("input", "T", "K"), Weight("weight", "N", "K")),
)
ROPE = Op(
    "rope",
    "Rotary position embedding, in place, on every head of query and key: with p = positions[t], c[i] = cos_sin[p, i] and "
    "s[i] = cos_sin[p, d/2 + i], the pair (a, b) = (x[i], x[d/2 + i]) becomes (a * c[i] - b * s[i], b * c[i] + a * s[i]) for i in "
    "[0, d/2). Compute in float32 and round once. Tokens of query and of key are further apart than they are long: use strides.",
    (
        InOut("query", "T", "q", "d"), InOut("key", "T", "kv", "d"), Metadata("positions", "T"),
        Input("cos_sin", "M", "d", dtype="float32", doc="cosines, then sines"),
    ),
)
DECODE_ATTENTION = Op(
    "decode_attention",
    "Attention of one query token per sequence over its cache: with n = lengths[b] and g = h // (q / kv), out[b, h] = sum over j < n of "
    "p[j] * values[b, j, g] where p = softmax over j < n of scale * query[b, h] . keys[b, j, g]. What lies behind n entries has no "
    "meaning. Sums and exponentials in float32 or better, rounded once. Tokens of query are further apart than they are long.",
    (
        Output("out", "B", "q", "d"), Input("query", "B", "q", "d"), Input("keys", "B", "M", "kv", "d"),
        Input("values", "B", "M", "kv", "d"), Metadata("lengths", "B"), Scalar("scale", "float"),
    ),
)
SILU_AND_MUL = Op(
    "silu_and_mul",
    "out[t, i] = silu(input[t, i]) * input[t, I + i] with silu(g) = g / (1 + exp(-g)). Compute in float32 or better and round once.",
    (Output("out", "T", "I"), Input("input", "T", "2*I", doc="gate first, then up")),
)
DECODER_OPS = (RMS_NORM, LINEAR, ROPE, DECODE_ATTENTION, SILU_AND_MUL)
"""Of decoder layers of the Llama family that decode for several steps: keys and values join the cache in the program."""
ADD_RMS_NORM = Op(
    "add_rms_norm",
    "With s[t, i] = input[t, i] + residual[t, i] in float32: total[t, i] = s[t, i], rounded, and out[t, i] = s[t, i] / sqrt(mean over i of "
    "s[t, i]^2 + epsilon) * weight[i]. The norm is taken of the unrounded sum; compute in float32 or better and round once.",
    (
        Output("out", "T", "H"), Output("total", "T", "H"), Input("input", "T", "H"), Input("residual", "T", "H"), Weight("weight", "H"),
        Scalar("epsilon", "float"),
    ),
)
CACHED_ATTENTION = Op(
    "cached_attention",
    "Attention of one query token per sequence over its cache and itself: with n = lengths[b], which may be 0, and g = h // (q / kv), "
    "out[b, h] = sum over j <= n of p[j] * v[j] where p = softmax over j <= n of scale * query[b, h] . k[j]; k[j] = k_cache[b, j, g] and "
    "v[j] = v_cache[b, j, g] for j < n, k[n] = key[b, g] and v[n] = value[b, g]. What lies behind n entries of a cache has no meaning. "
    "Sums and exponentials in float32 or better; p may be rounded to the dtype of value; round out once. Tokens of query are further "
    "apart than they are long: use strides.",
    (
        Output("out", "B", "q", "d"), Input("query", "B", "q", "d"), Input("key", "B", "kv", "d"), Input("value", "B", "kv", "d"),
        Input("k_cache", "B", "M", "kv", "d"), Input("v_cache", "B", "M", "kv", "d"), Metadata("lengths", "B"), Scalar("scale", "float"),
    ),
)
CACHED_DECODER_OPS = (ADD_RMS_NORM, LINEAR, ROPE, CACHED_ATTENTION, SILU_AND_MUL)
"""Of one decoder layer of the Llama family at a step, whose new key and value are outputs."""


def modulated(x: torch.Tensor, epsilon: float, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Layer norm of `x` without weights, times one plus the scale, plus the shift (adaptive layer norm)."""
    return torch.nn.functional.layer_norm(x, x.shape[-1:], eps=epsilon) * (1 + scale) + shift


def rms_normed(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Root-mean-square normalised rows (last dimension) of `x`, float64, times `weight`."""
    return x * (x.square().mean(-1, keepdim=True) + epsilon).rsqrt() * weight.double()


def rotated(x: torch.Tensor, cos_sin: torch.Tensor) -> torch.Tensor:
    """`x` ``[T, heads, d]``, float64, rotated by ``cos_sin`` ``[T, d]``: cosines, then sines."""
    cos, sin = cos_sin.double()[:, None].chunk(2, -1)
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def attended(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, lengths: torch.Tensor, scale: float) -> torch.Tensor:
    """Attention of ``query [B, q, d]`` over the first ``lengths [B]`` entries of ``keys``, ``values [B, M, kv, d]``; all in float64."""
    batch, heads, width = query.shape
    grouped = query.view(batch, keys.shape[2], heads // keys.shape[2], width)
    scores = torch.einsum("bgrd,bmgd->bgrm", grouped, keys) * scale
    hidden = torch.arange(keys.shape[1], device=keys.device) >= lengths[:, None]
    scores = scores.masked_fill(hidden[:, None, None], -torch.inf)
    known = values.masked_fill(hidden[:, :, None, None], 0.0)  # what has no meaning may be infinite
    return torch.einsum("bgrm,bmgd->bgrd", scores.softmax(-1), known).reshape(batch, heads, width)


def gated(x: torch.Tensor) -> torch.Tensor:
    """SiLU of the first half of the last dimension, times the second."""
    gate, up = x.chunk(2, -1)
    return torch.nn.functional.silu(gate) * up


DECODER_WEIGHTS = ("norms", "qkv", "o", "gate_up", "down")
"""Names of what a decoder layer holds: ``[2, H]``, ``[(q + 2 * kv) * d, H]``, ``[H, q * d]``, ``[2 * I, H]``, ``[H, I]``."""


def decoded(
    x: torch.Tensor, weights: Mapping[str, torch.Tensor], epsilon: float, angles: torch.Tensor, keys: torch.Tensor, values: torch.Tensor,
    lengths: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A decoder layer of the Llama family for one token of every sequence, in float64.

    Args:
        x: Residual stream ``[B, H]``.
        weights: Those of `DECODER_WEIGHTS`.
        epsilon: Of both norms.
        angles: Cosines, then sines, of each token's position ``[B, d]``.
        keys: Cache ``[B, M, kv, d]``; the token's key joins it, in place.
        values: As `keys`.
        lengths: Entries before the token (int64 ``[B]``), less than M.

    Returns:
        The stream behind the attention, and what the MLP adds to it.
    """
    norms, qkv, o, gate_up, down = (weights[name].double() for name in DECODER_WEIGHTS)
    batch, _, groups, head = keys.shape
    heads = o.shape[1] // head
    projected = (rms_normed(x, norms[0], epsilon) @ qkv.T).view(batch, heads + 2 * groups, head)
    query, key, value = torch.split(projected, [heads, groups, groups], 1)
    rows = torch.arange(batch, device=x.device)
    keys[rows, lengths], values[rows, lengths] = rotated(key, angles), value
    mixed = attended(rotated(query, angles), keys, values, lengths + 1, head**-0.5)
    x = x + mixed.flatten(1) @ o.T
    return x, gated(rms_normed(x, norms[1], epsilon) @ gate_up.T) @ down.T


def rotary_table(positions: int, width: int, base: float, device: str) -> torch.Tensor:
    """Cosines, then sines, of every position: float32 ``[positions, width]`` for heads of `width`."""
    inverse = base ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.outer(torch.arange(positions, dtype=torch.float64), inverse)
    return torch.cat([angles.cos(), angles.sin()], -1).float().to(device)


def pixel_rotary_table(positions: int, across: int, width: int, device: str) -> torch.Tensor:
    """Cosines, then sines, of every pixel of a grid of rows of `across`: float32 ``[positions, width]`` for heads of `width`.

    Half of the pairs turn by the pixel's row, the others by its column, both spread over [-1, 1], by up to 128 half turns.
    """
    place, turns = torch.arange(positions), torch.linspace(1.0, 128.0, width // 4, dtype=torch.float64) * math.pi
    axes = ((place // across, -(-positions // across)), (place % across, across))
    angles = torch.cat([torch.outer(torch.linspace(-1.0, 1.0, count, dtype=torch.float64)[at], turns) for at, count in axes], 1)
    return torch.cat([angles.cos(), angles.sin()], -1).float().to(device)


LINEAR_BIAS = Op(
    "linear_bias",
    "out[t, n] = bias[n] + sum over k of input[t, k] * weight[n, k]. Accumulate in float32 or better and round once.",
    (Output("out", "T", "N"), Input("input", "T", "K"), Weight("weight", "N", "K"), Weight("bias", "N")),
)
_STANDARDISED = (
    "(s[t, i] - m) / sqrt(v + epsilon) * weight[i] + bias[i], with m the mean over i of s[t, i] and v that of (s[t, i] - m)^2. Compute in "
    "float32 or better and round once."
)
LAYER_NORM = Op(
    "layer_norm",
    f"With s = input: out[t, i] = {_STANDARDISED}",
    (Output("out", "T", "H"), Input("input", "T", "H"), Weight("weight", "H"), Weight("bias", "H"), Scalar("epsilon", "float")),
)
ADD_LAYER_NORM = Op(
    "add_layer_norm",
    f"With s[t, i] = input[t, i] + residual[t, i] in float32: out[t, i] = {_STANDARDISED}",
    (
        Output("out", "T", "H"), Input("input", "T", "H"), Input("residual", "T", "H"), Weight("weight", "H"), Weight("bias", "H"),
        Scalar("epsilon", "float"),
    ),
)
RESIDUAL_LAYER_NORM = Op(
    "residual_layer_norm",
    f"With s[t, i] = input[t, i] + residual[t, i] in float32: total[t, i] = s[t, i], rounded, and out[t, i] = {_STANDARDISED}",
    (
        Output("out", "T", "H"), Output("total", "T", "H"), Input("input", "T", "H"), Input("residual", "T", "H"), Weight("weight", "H"),
        Weight("bias", "H"), Scalar("epsilon", "float"),
    ),
)
GELU = Op(
    "gelu",
    "out[t, i] = g / 2 * (1 + erf(g / sqrt(2))) with g = input[t, i]. Compute in float32 or better and round once.",
    (Output("out", "T", "I"), Input("input", "T", "I")),
)
GELU_TANH = Op(
    "gelu_tanh",
    "out[t, i] = g / 2 * (1 + tanh(sqrt(2 / pi) * (g + 0.044715 * g^3))) with g = input[t, i]. Compute in float32 or better and round "
    "once.",
    (Output("out", "T", "I"), Input("input", "T", "I")),
)
ROTATE = Op(
    "rotate",
    "Rotary position embedding, in place, on every head of query and key: the pair (a, b) = (x[t, n, i], x[t, n, d/2 + i]) becomes "
    "(a * cos[t, i] - b * sin[t, i], b * cos[t, i] + a * sin[t, i]) for i in [0, d/2). Compute in float32 and round once. Tokens of query "
    "and of key are further apart than they are long: use strides.",
    (
        InOut("query", "T", "h", "d"), InOut("key", "T", "h", "d"), Input("cos", "T", "d//2", dtype="float32"),
        Input("sin", "T", "d//2", dtype="float32"),
    ),
)
VARLEN_ATTENTION = Op(
    "varlen_attention",
    "Every token attends to all tokens of its own sequence: sequence s has those from cu_seqlens[s] to cu_seqlens[s + 1] - 1, at most "
    "max_seqlen. For token t of sequence s and head n: out[t, n] = sum over tokens j of s of p[j] * value[j, n] where p = softmax over j "
    "of dot(query[t, n], key[j, n]) / sqrt(d). Sums and exponentials in float32 or better; p may be rounded to the dtype of value; round "
    "out once. Tokens of query, key and value are further apart than they are long: use strides.",
    (
        Output("out", "T", "h", "d"), Input("query", "T", "h", "d"), Input("key", "T", "h", "d"), Input("value", "T", "h", "d"),
        Metadata("cu_seqlens", "S+1"), Scalar("max_seqlen", "int"),
    ),
)
ENCODER_OPS = (LINEAR_BIAS, VARLEN_ATTENTION, ADD_LAYER_NORM, GELU)
"""Of an encoder layer of the BERT family, over packed sequences."""
VISION_OPS = (LAYER_NORM, LINEAR_BIAS, ROTATE, VARLEN_ATTENTION, RESIDUAL_LAYER_NORM, GELU_TANH)
"""Of a block of a vision encoder, over packed images."""
LAYER_NORM_MODULATE = Op(
    "layer_norm_modulate",
    "With m the mean over i of input[n, s, i] and v that of (input[n, s, i] - m)^2: out[n, s, i] = (input[n, s, i] - m) / sqrt(v + "
    "epsilon) * (1 + scale[n, i]) + shift[n, i]. Compute in float32 or better and round once. Rows of shift and of scale are further "
    "apart than they are long: use strides.",
    (
        Output("out", "N", "S", "H"), Input("input", "N", "S", "H"), Input("shift", "N", "H"), Input("scale", "N", "H"),
        Scalar("epsilon", "float"),
    ),
)
QK_NORM_ROPE = Op(
    "qk_norm_rope",
    "In place, on every head x of query (with w = norm_q) and of key (with w = norm_k): y[i] = x[i] / sqrt(mean over i of x[i]^2 + "
    "epsilon) * w[i]; then the neighbours (a, b) = (y[2 * i], y[2 * i + 1]) become (a * c[i] - b * z[i], b * c[i] + a * z[i]) for i in "
    "[0, d/2), with c[i] = cos_sin[t, i] and z[i] = cos_sin[t, d/2 + i]. Compute in float32 and round once. Tokens of query and key are "
    "further apart than they are long: use strides.",
    (
        InOut("query", "B", "T", "h", "d"), InOut("key", "B", "T", "h", "d"), Weight("norm_q", "d"), Weight("norm_k", "d"),
        Input("cos_sin", "T", "d", dtype="float32", doc="cosines, then sines"), Scalar("epsilon", "float"),
    ),
)
ATTENTION = Op(
    "attention",
    "Every token attends to all tokens of its sample, head by head: out[b, t, n] = sum over j of p[j] * value[b, j, n] where p = softmax "
    "over j of dot(query[b, t, n], key[b, j, n]) / sqrt(d). Sums and exponentials in float32 or better; p may be rounded to the dtype of "
    "value; round out once. Tokens of query, key and value are further apart than they are long, equally far: use strides.",
    (Output("out", "B", "T", "h", "d"), *(Input(name, "B", "T", "h", "d") for name in ("query", "key", "value"))),
)
GELU_TANH_CONCAT = Op(
    "gelu_tanh_concat",
    "out[t, i] = mixed[t, i] for i in [0, H) and out[t, H + i] = g / 2 * (1 + tanh(sqrt(2 / pi) * (g + 0.044715 * g^3))) with g = "
    "inner[t, i] for i in [0, I). Compute in float32 or better and round once. Rows of inner are further apart than they are long: use "
    "strides.",
    (Output("out", "R", "H+I"), Input("mixed", "R", "H"), Input("inner", "R", "I")),
)
GATED_RESIDUAL = Op(
    "gated_residual",
    "out[n, s, i] = residual[n, s, i] + gate[n, i] * branch[n, s, i]. Compute in float32 or better and round once. Rows of gate are "
    "further apart than they are long: use strides.",
    (Output("out", "N", "S", "H"), Input("residual", "N", "S", "H"), Input("branch", "N", "S", "H"), Input("gate", "N", "H")),
)
SINGLE_STREAM_OPS = (LINEAR_BIAS, LAYER_NORM_MODULATE, QK_NORM_ROPE, ATTENTION, GELU_TANH_CONCAT, GATED_RESIDUAL)
"""Of a single-stream block of a diffusion transformer, over samples of equally many tokens."""
_AXIAL = ("B", "F", "S", "h", "d")
_FAR = "Frames and clips follow each other without gaps, but tokens of {} are further apart than they are long, equally far: use strides."
AXIAL_ROPE = Op(
    "axial_rope",
    "In place, on every head x of query and key: the neighbours (a, b) = (x[2 * i], x[2 * i + 1]) become (a * c[i] - b * z[i], b * c[i] + "
    "a * z[i]) for i in [0, d/2), with c[i] = cos_sin[n, i] and z[i] = cos_sin[n, d/2 + i], n the token's frame f if temporal is true, "
    "else its place s in the frame. Compute in float32 and round once. " + _FAR.format("query and key"),
    (
        InOut("query", *_AXIAL), InOut("key", *_AXIAL), Input("cos_sin", "n", "d", dtype="float32", doc="n is F or S; cosines, then sines"),
        Scalar("temporal", "bool"),
    ),
)
AXIAL_ATTENTION = Op(
    "axial_attention",
    "Head by head, token (b, f, s) attends to the tokens (b, f, r) of all places r of its frame if temporal is false, and to the tokens "
    "(b, g, s) of all frames g <= f if it is true: out is the sum over those of p * value with p = softmax of dot(query, key) / sqrt(d). "
    "Sums and exponentials in float32 or better; p may be rounded to the dtype of value; round out once. "
    + _FAR.format("query, key and value"),
    (Output("out", *_AXIAL), *(Input(name, *_AXIAL) for name in ("query", "key", "value")), Scalar("temporal", "bool")),
)
WORLD_OPS = (LINEAR, LINEAR_BIAS, LAYER_NORM_MODULATE, AXIAL_ROPE, AXIAL_ATTENTION, GELU_TANH, GATED_RESIDUAL)
"""Of a spatio-temporal block of a world model: frames of S tokens, N of them in all B clips."""
