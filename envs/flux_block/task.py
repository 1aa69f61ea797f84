"""A single-stream block of FLUX: two thirds of the layers of its diffusion transformer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from ... import encoder
from ...attention import attend
from ...layers import SINGLE_STREAM_OPS, modulated, rms_normed
from ...task import LAYER, Baseline, Cost, Input, Output, Scalar, Task, Weight, Workload

if TYPE_CHECKING:
    from ...recipes import Draw
    from ...task import Range, Value

_AXES = (0, 3, 3)
"""Of d / 16 pairs each, on how many the rope turns by a token's row, and by its column; the rest belong to an axis that is always 0."""


class FluxBlock(Task):
    """Attention and MLP side by side: one projection into both, one out of both, modulated and gated by the sample's conditioning."""

    entry = "flux_block"
    summary = "Apply one single-stream FLUX block to the text and image tokens of B samples: modulated norm, attention beside MLP, gate."
    semantics = (
        "B samples of T tokens (text, then image) of H = h * d channels; sample b has the conditioning vec[b]. Let x = hidden. shift, "
        "scale, gate (H each, in this order) = silu(vec) . mod_weight + mod_bias; n = layer_norm(x) * (1 + scale) + shift, the norm with "
        "mean and variance over the channels, epsilon, and no weights; query, key, value (h heads of d each) and then u (I channels) = n "
        ". linear1_weight + linear1_bias. Every head y of query is normalised, y / sqrt(mean of y^2 + epsilon) * norm_q, and of key with "
        "norm_k; then its neighbouring channels 2 * i and 2 * i + 1, a and b, become a * c - b * z and b * c + a * z with c = cos_sin[t, "
        "i] and z = cos_sin[t, d/2 + i] of its token t. m = attention of every token over all tokens of its sample, head by head, scores "
        "times 1 / sqrt(d); out = x + gate * ([m, gelu_tanh(u)] . linear2_weight + linear2_bias), with the brackets one row of H + I "
        "channels. x . w stands for the sum over k of x[k] * w[n, k]; silu(g) = g / (1 + exp(-g)); gelu_tanh(g) = g / 2 * (1 + "
        "tanh(sqrt(2 / pi) * (g + 0.044715 * g^3))). Between the operations activations are held in the dtype of the weights. B may be "
        "zero. All tensors are contiguous."
    )
    mirrors = "black-forest-labs flux.modules.layers.SingleStreamBlock.forward(x, vec, pe), diffusers FluxSingleTransformerBlock"
    level = "L3"
    category = "vision"
    architectures = ("flux", "chroma")
    ops = SINGLE_STREAM_OPS
    numerics = LAYER
    signature = (
        Output("out", "B", "T", "H"),
        Input("hidden", "B", "T", "H", doc="text tokens first"),
        Input("vec", "B", "H", doc="of the time step, the guidance and the pooled prompt, before SiLU"),
        Weight("mod_weight", "3*H", "H"),
        Weight("mod_bias", "3*H"),
        Weight("linear1_weight", "3*H+I", "H"),
        Weight("linear1_bias", "3*H+I"),
        Weight("norm_q", "d"),
        Weight("norm_k", "d"),
        Weight("linear2_weight", "H", "H+I"),
        Weight("linear2_bias", "H"),
        Weight("cos_sin", "T", "d", dtype="float32", doc="cosines, then sines; constant over the layers and steps of an image"),
        Scalar("epsilon", "float", doc="of all norms"),
    )
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", devices=("cuda",), compile=True),
    )
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {
        "cpu": {"B": (1, 3), "L": (1, 20), "N": (1, 70)}, "cuda": {"B": (1, 4), "L": (1, 300), "N": (1, 1500)}
    }
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"h": 3, "d": 80, "I": 840}, {"h": 5, "d": 48, "I": 952}),
        "cuda": ({"h": 17, "d": 80, "I": 5400}, {"h": 21, "d": 96, "I": 8024}),
    }
    batch = "B"
    independent_rows = True

    def complete(self, sizes: Mapping[str, int]) -> dict[str, int]:
        return {**sizes, "T": sizes["L"] + sizes["N"], "H": sizes["h"] * sizes["d"]}

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        """Values of every argument; ``workload.params``: ``across``, image tokens of a row; ``eps``, the model's own."""
        sizes, dtype = workload.sizes, getattr(torch, workload.dtype)
        batch, tokens, width, head, inner = (sizes[name] for name in ("B", "T", "H", "d", "I"))

        def bias(count: int) -> torch.Tensor:
            return draw.weight(lambda: draw.normal((count,), dtype, 0.3))

        def norm() -> torch.Tensor:
            """Above one, as trained ones are: single tokens count. In float32 so far that a softmax must subtract its maximum."""
            usual = 4.0 if dtype is torch.float32 else 1.2
            return draw.weight(lambda: draw.normal((head,), torch.float32, 0.25).add_(usual).to(dtype))

        return {
            "hidden": draw.activation((batch, tokens, width), dtype), "vec": draw.activation((batch, width), dtype),
            "mod_weight": draw.weight(lambda: draw.normal((3 * width, width), dtype, 0.8 * width**-0.5)), "mod_bias": bias(3 * width),
            "linear1_weight": draw.matrix((3 * width + inner, width), dtype, width), "linear1_bias": bias(3 * width + inner),
            "norm_q": norm(), "norm_k": norm(),
            "linear2_weight": draw.matrix((width, width + inner), dtype, width + inner), "linear2_bias": bias(width),
            "cos_sin": draw.weight(lambda: _table(sizes["L"], sizes["N"], int(workload.params["across"]), head).to(draw.device)),
            "epsilon": encoder.draw_epsilon(workload, draw),
        }  # fmt: skip

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        given = {name: torch.as_tensor(value).double() for name, value in args.items()}
        x, epsilon, (batch, tokens, width) = given["hidden"], float(args["epsilon"]), given["hidden"].shape
        modulation = encoder.linear(torch.nn.functional.silu(given["vec"]), given["mod_weight"], given["mod_bias"])
        shift, scale, gate = modulation[:, None].chunk(3, -1)
        projected = encoder.linear(modulated(x, epsilon, shift, scale), given["linear1_weight"], given["linear1_bias"])
        head = given["norm_q"].shape[0]
        query, key, value = projected[..., : 3 * width].reshape(batch, tokens, 3, width // head, head).unbind(2)
        cos, sin = given["cos_sin"][:, None].chunk(2, -1)
        turned = []
        for heads, weight in ((query, given["norm_q"]), (key, given["norm_k"])):
            first, second = rms_normed(heads, weight, epsilon).reshape(batch, tokens, width // head, head // 2, 2).unbind(-1)
            turned.append(torch.stack([first * cos - second * sin, second * cos + first * sin], -1).flatten(-2))
        inner = torch.nn.functional.gelu(projected[..., 3 * width :], approximate="tanh")
        joined = torch.cat([torch.zeros_like(x), inner], -1)
        for sample in range(batch):
            own = (turned[0][sample], turned[1][sample], value[sample])
            joined[sample, :, :width] = attend(*own, value.shape[-1] ** -0.5)[0].view(tokens, width)
        return {"out": x + gate * encoder.linear(joined, given["linear2_weight"], given["linear2_bias"])}

    def groups(self, args: Mapping[str, Value]) -> dict[str, dict[str, torch.Tensor]]:
        batch, tokens, _ = torch.as_tensor(args["hidden"]).shape
        return {"out": {"sample": torch.arange(batch).repeat_interleave(tokens)}}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        sizes, item = workload.sizes, getattr(torch, workload.dtype).itemsize
        batch, tokens, width, inner = (sizes[name] for name in ("B", "T", "H", "I"))
        matrices = width * (4 * width + 2 * inner)
        moved = (2 * tokens + 1) * batch * width + (matrices + 3 * width**2) * (batch > 0)
        flops = 2 * batch * (tokens * matrices + 3 * width**2) + 4 * batch * width * tokens**2
        return Cost(bytes=moved * item + 4 * tokens * sizes["d"] * (batch > 0), flops=flops)


def _table(text: int, image: int, across: int, head: int) -> torch.Tensor:
    """Cosines, then sines (float32 ``[text + image, head]``): image tokens by row and column, text tokens not turned at all."""
    place = torch.arange(image, dtype=torch.float64)
    pairs = [head // 16 * share for share in _AXES]
    pairs[0] = head // 2 - pairs[1] - pairs[2]
    angles = [
        torch.outer(at, 1e4 ** -(torch.arange(count, dtype=torch.float64) / max(count, 1)))
        for at, count in zip((0 * place, place // across, place % across), pairs, strict=True)
    ]
    turns = torch.nn.functional.pad(torch.cat(angles, 1), (0, 0, text, 0))
    return torch.cat([turns.cos(), turns.sin()], 1).float()


TASK = FluxBlock()
