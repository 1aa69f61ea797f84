"""The spatio-temporal block of Oasis: a world model whose diffusion transformer attends inside of frames, then along the frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from ... import encoder
from ...attention import attend, tensor
from ...layers import WORLD_OPS, modulated, pixel_rotary_table, rotary_table
from ...task import LAYER, Baseline, Cost, Input, Output, Scalar, Task, Weight, Workload

if TYPE_CHECKING:
    from ...recipes import Draw
    from ...task import Range, Value


class OasisBlock(Task):
    """Two halves of attention and MLP, each modulated and gated by the conditioning of its frame: over space, then causal over time."""

    entry = "oasis_block"
    summary = "Apply one Oasis block to B clips of F frames of S tokens: modulated attention and MLP in every frame, then along the frames."
    semantics = (
        "Token (b, f, s) has H = h * d channels; frame (b, f) has the conditioning vec[b, f]. x = hidden goes through half 0, then half 1; "
        "half m has the weights [m]. With shift, scale, gate, shift', scale', gate' (H each, in this order) = silu(vec) . mod_weight + "
        "mod_bias: y = x + gate * (attention(norm(x) * (1 + scale) + shift) . o_weight + o_bias), then y + gate' * (gelu_tanh((norm(y) * "
        "(1 + scale') + shift') . up_weight + up_bias) . down_weight + down_bias) is the half's result. norm subtracts the mean over the "
        "channels and divides by the square root of their variance plus epsilon, without weights. attention(n): query, key, value (h heads "
        "of d each) = n . qkv_weight; in every head of query and key the neighbouring channels 2 * i and 2 * i + 1, a and b, become a * c "
        "- b * z and b * c + a * z, with c = space_cos_sin[s, i] and z = space_cos_sin[s, d/2 + i] in half 0, and time_cos_sin[f] in place "
        "of space_cos_sin[s] in half 1. In half 0 a token attends to all tokens of its frame; in half 1 to those of its place s in its own "
        "and earlier frames of its clip; head by head, scores times 1 / sqrt(d). x . w stands for the sum over k of x[k] * w[n, k]; "
        "silu(g) = g / (1 + exp(-g)); gelu_tanh(g) = g / 2 * (1 + tanh(sqrt(2 / pi) * (g + 0.044715 * g^3))). Between the operations "
        "activations are held in the dtype of the weights. B may be zero. All tensors are contiguous."
    )
    mirrors = "open-oasis dit.SpatioTemporalDiTBlock.forward(x, c)"
    level = "L3"
    category = "world"
    architectures = ("oasis",)
    ops = WORLD_OPS
    numerics = LAYER
    signature = (
        Output("out", "B", "F", "S", "H"),
        Input("hidden", "B", "F", "S", "H"),
        Input("vec", "B", "F", "H", doc="of each frame's noise level and action, before SiLU"),
        Weight("mod_weight", 2, "6*H", "H", doc="here and below: [0] of the half over space, [1] of that over time"),
        Weight("mod_bias", 2, "6*H"),
        Weight("qkv_weight", 2, "3*H", "H"),
        Weight("o_weight", 2, "H", "H"),
        Weight("o_bias", 2, "H"),
        Weight("up_weight", 2, "I", "H"),
        Weight("up_bias", 2, "I"),
        Weight("down_weight", 2, "H", "I"),
        Weight("down_bias", 2, "H"),
        Weight("space_cos_sin", "S", "d", dtype="float32", doc="cosines, then sines; constant over layers and steps"),
        Weight("time_cos_sin", "F", "d", dtype="float32"),
        Scalar("epsilon", "float", doc="of all norms"),
    )
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", devices=("cuda",), compile=True),
    )
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"B": (1, 3), "F": (1, 5)}, "cuda": {"B": (1, 8), "F": (1, 32)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"S": 21, "h": 3, "d": 20, "I": 216}, {"S": 35, "h": 2, "d": 44, "I": 328}),
        "cuda": ({"S": 77, "h": 9, "d": 80, "I": 2888}, {"S": 220, "h": 13, "d": 48, "I": 2504}),
    }
    batch = "B"
    independent_rows = True

    def complete(self, sizes: Mapping[str, int]) -> dict[str, int]:
        return {**sizes, "H": sizes["h"] * sizes["d"]}

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        """Values of every argument; ``workload.params``: ``across``, tokens of a row of the frame; ``eps``, the model's own."""
        sizes, dtype = workload.sizes, getattr(torch, workload.dtype)
        batch, frames, tokens, heads, head, width, inner = (sizes[name] for name in ("B", "F", "S", "h", "d", "H", "I"))

        def projections() -> torch.Tensor:
            """Heads that look at many tokens and at few: in float32 over space so few that a softmax must subtract its maximum.

            Over time less, where sharp heads would amplify the roundings of the half before, and in 16 bits less still, where those of
            large queries and keys would be most of what can be seen.
            """
            values = draw.normal((2, 3, heads, head, width), torch.float32, width**-0.5)
            sharp = torch.tensor([5.0, 2.0] if dtype is torch.float32 else [0.5, 0.5], device=draw.device)[:, None]
            values[:, :2] *= (sharp ** (1 - torch.arange(heads, device=draw.device) / heads))[:, None, :, None, None]
            return values.view(2, 3 * width, width).to(dtype)

        def bias(count: int) -> torch.Tensor:
            return draw.weight(lambda: draw.normal((2, count), dtype, 0.3))

        return {
            "hidden": draw.activation((batch, frames, tokens, width), dtype), "vec": draw.normal((batch, frames, width), dtype),
            "mod_weight": draw.weight(lambda: draw.normal((2, 6 * width, width), dtype, 0.8 * width**-0.5)), "mod_bias": bias(6 * width),
            "qkv_weight": draw.weight(projections), "o_weight": draw.matrix((2, width, width), dtype, 6 * width), "o_bias": bias(width),
            "up_weight": draw.matrix((2, inner, width), dtype, width), "up_bias": bias(inner),
            "down_weight": draw.matrix((2, width, inner), dtype, inner), "down_bias": bias(width),
            "space_cos_sin": draw.weight(lambda: pixel_rotary_table(tokens, int(workload.params["across"]), head, draw.device)),
            "time_cos_sin": draw.weight(lambda: rotary_table(frames, head, 1e4, draw.device)),
            "epsilon": encoder.draw_epsilon(workload, draw),
        }  # fmt: skip

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        given = {name: torch.as_tensor(value).double() for name, value in args.items()}
        x, active, epsilon = given["hidden"], torch.nn.functional.silu(given["vec"])[:, :, None], float(args["epsilon"])
        for half, table in enumerate((given["space_cos_sin"][:, None], given["time_cos_sin"][:, None, None])):
            own = {name: value[half] for name, value in given.items() if name.endswith(("weight", "bias"))}
            modulation = encoder.linear(active, own["mod_weight"], own["mod_bias"]).chunk(6, -1)
            mixed = _attended(modulated(x, epsilon, *modulation[:2]) @ own["qkv_weight"].T, table, half == 1)
            x = x + modulation[2] * encoder.linear(mixed, own["o_weight"], own["o_bias"])
            inner = encoder.linear(modulated(x, epsilon, *modulation[3:5]), own["up_weight"], own["up_bias"])
            inner = torch.nn.functional.gelu(inner, approximate="tanh")
            x = x + modulation[5] * encoder.linear(inner, own["down_weight"], own["down_bias"])
        return {"out": x}

    def groups(self, args: Mapping[str, Value]) -> dict[str, dict[str, torch.Tensor]]:
        clips, frames, tokens, _ = tensor(args, "hidden").shape
        return {"out": {"frame": torch.arange(clips * frames).repeat_interleave(tokens)}}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        sizes, item = workload.sizes, getattr(torch, workload.dtype).itemsize
        clips, frames, tokens, width = (sizes[name] for name in ("B", "F", "S", "H"))
        rows, matrices = clips * frames * tokens, 2 * width * (4 * width + 2 * sizes["I"])
        moved = (2 * rows + clips * frames) * width + (matrices + 12 * width**2) * (clips > 0)
        flops = 2 * rows * matrices + 24 * clips * frames * width**2 + 2 * rows * width * (2 * tokens + frames + 1)
        return Cost(bytes=moved * item + 4 * (tokens + frames) * sizes["d"] * (clips > 0), flops=flops)


def _attended(qkv: torch.Tensor, table: torch.Tensor, temporal: bool) -> torch.Tensor:
    """Attention of ``qkv [B, F, S, 3 * H]``, float64, with queries and keys turned, as ``[B, F, S, H]``."""
    clips, frames, tokens, width = *qkv.shape[:3], qkv.shape[3] // 3
    cos, sin = table.chunk(2, -1)
    parts = list(qkv.reshape(clips, frames, tokens, 3, width // table.shape[-1], table.shape[-1]).unbind(3))
    for place, heads in enumerate(parts[:2]):
        first, second = heads[..., ::2], heads[..., 1::2]
        parts[place] = torch.stack([first * cos - second * sin, second * cos + first * sin], -1).flatten(-2)
    # A clip is one sequence of frames with S * h heads, or F sequences of tokens.
    query, key, value = (part.flatten(2, 3) if temporal else part.flatten(0, 1) for part in parts)
    out = torch.zeros_like(query)
    for sequence, own in enumerate(zip(query, key, value, strict=True)):
        out[sequence] = attend(*own, table.shape[-1] ** -0.5, causal=temporal)[0]
    return out.reshape(clips, frames, tokens, width)


TASK = OasisBlock()
