"""Squeeze-and-excitation: channels of an image scaled by what a small network makes of their means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from ...task import Baseline, Cost, Input, Output, Task, Weight, Workload

if TYPE_CHECKING:
    from ...recipes import Draw
    from ...task import Range, Value

WEIGHTS = ("reduce_weight", "reduce_bias", "expand_weight", "expand_bias")


class SeGrn(Task):
    """Global average pool, two small matrix products with a SiLU between them, and a sigmoid that scales the channels."""

    entry = "squeeze_excite"
    summary = "Scale every channel of channels-last images by a sigmoid gate that a two-layer network computes from the channels' means."
    semantics = (
        "Images of S pixels and C channels lie as [N, S, C]. mean[n, c] = mean over s of input[n, s, c]; z[n, r] = reduce_bias[r] + sum "
        "over c of reduce_weight[r, c] * mean[n, c]; h = z / (1 + exp(-z)); g[n, c] = expand_bias[c] + sum over r < R of "
        "expand_weight[c, r] * h[n, r]; out[n, s, c] = input[n, s, c] / (1 + exp(-g[n, c])). Accumulate in float32 or better. Means, h and "
        "the gate may be rounded to the tensors' dtype once each, as production does. N may be zero. All tensors are contiguous."
    )
    mirrors = "timm.layers.SqueezeExcite.forward (conv_reduce, SiLU, conv_expand, sigmoid) on torch.channels_last tensors"
    level = "L2"
    category = "edge"
    architectures = ("efficientnetv2",)
    signature = (
        Output("out", "N", "S", "C"),
        Input("input", "N", "S", "C"),
        Weight("reduce_weight", "R", "C"),
        Weight("reduce_bias", "R"),
        Weight("expand_weight", "C", "R"),
        Weight("expand_bias", "C"),
    )
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", compile=True),
    )
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"N": (1, 4), "S": (1, 300)}, "cuda": {"N": (1, 40), "S": (1, 1000)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"C": 320, "R": 20}, {"C": 912, "R": 38}, {"C": 200, "R": 10}),
        "cuda": ({"C": 320, "R": 20}, {"C": 912, "R": 38}, {"C": 1536, "R": 64}, {"C": 200, "R": 10}),
    }
    batch = "N"
    independent_rows = True  # images; no signs: the gate would change

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        images, pixels, channels, hidden = (workload.sizes[name] for name in ("N", "S", "C", "R"))
        dtype = getattr(torch, workload.dtype)
        values = draw.vary_rows(draw.activation((images, pixels, channels), dtype), 4.0, 1e-2)
        # Means of noise alone would vanish, and with them whatever is wrong with the gates.
        values += draw.normal((images, 1, channels), dtype)
        return {
            "input": values,
            "reduce_weight": draw.matrix((hidden, channels), dtype, channels),
            "reduce_bias": draw.weight(lambda: draw.normal((hidden,), dtype, 0.5)),
            "expand_weight": draw.weight(lambda: draw.normal((channels, hidden), dtype, 2 / hidden**0.5)),
            "expand_bias": draw.weight(lambda: draw.normal((channels,), dtype, 0.5)),
        }

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        x, (reduce, reduce_bias, expand, expand_bias) = _double(args, "input"), (_double(args, name) for name in WEIGHTS)
        hidden = torch.nn.functional.silu(torch.addmm(reduce_bias, x.mean(1), reduce.T))
        return {"out": x * torch.addmm(expand_bias, hidden, expand.T).sigmoid()[:, None]}

    def groups(self, args: Mapping[str, Value]) -> dict[str, dict[str, torch.Tensor]]:
        images, pixels, _ = torch.as_tensor(args["input"]).shape
        return {"out": {"image": torch.arange(images).repeat_interleave(pixels)}}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        images, pixels, channels, hidden = (workload.sizes[name] for name in ("N", "S", "C", "R"))
        elements = 2 * images * pixels * channels + 2 * channels * hidden + channels + hidden
        flops = images * (2 * pixels * channels + 4 * channels * hidden)
        return Cost(bytes=elements * getattr(torch, workload.dtype).itemsize, flops=flops)


def _double(args: Mapping[str, Value], name: str) -> torch.Tensor:
    return torch.as_tensor(args[name]).double()


TASK = SeGrn()
