"""Group normalisation and SiLU: what stands before every convolution of a diffusion model's residual blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from ...task import Baseline, Cost, Input, Output, Scalar, Task, Weight, Workload

if TYPE_CHECKING:
    from ...recipes import Draw
    from ...task import Range, Value


class GroupNormSilu(Task):
    """Normalisation over groups of channels and all pixels, then weight, bias and SiLU by channel."""

    entry = "group_norm_silu"
    summary = "Normalise groups of channels over all pixels, apply weight and bias by channel, and then SiLU."
    semantics = (
        "Images of C channels and S pixels lie as [N, C, S], or as [N, S, C] if channels_last is 1; X and Y are C and S, or S and C. "
        "Group g of num_groups holds the channels from g * C / num_groups to (g + 1) * C / num_groups - 1. With m and v the mean and the "
        "mean squared deviation from m over all channels of a group and all pixels of an image: y = (input - m) / sqrt(v + eps) * "
        "weight[c] + bias[c], out = y / (1 + exp(-y)). Accumulate in float32 or better and round once. All tensors are contiguous."
    )
    mirrors = "torch.nn.functional.group_norm followed by torch.nn.functional.silu, as in diffusers ResnetBlock2D"
    level = "L1"
    category = "vision"
    architectures = ("sdxl",)
    signature = (
        Output("out", "N", "X", "Y"),
        Input("input", "N", "X", "Y"),
        Scalar("num_groups", "int", doc="It divides C."),
        Weight("weight", "C"),
        Weight("bias", "C"),
        Scalar("eps", "float"),
        Scalar("channels_last", "int", doc="1 for [N, S, C], 0 for [N, C, S]."),
    )
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", compile=True),
        Baseline(name="liger", file="liger.py", devices=("cuda",), requires="liger_kernel"),
    )
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"N": (1, 3), "S": (1, 300)}, "cuda": {"N": (1, 8), "S": (1, 5000)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"C": 960}, {"C": 512}, {"C": 96, "G": 8}), "cuda": ({"C": 960}, {"C": 512}, {"C": 1920}, {"C": 96, "G": 8})
    }
    batch = "N"
    independent_rows = True

    def complete(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """The two inner dimensions X and Y: channels and pixels, the other way round where ``last`` is 1."""
        inner = (sizes["S"], sizes["C"]) if sizes["last"] else (sizes["C"], sizes["S"])
        return {**sizes, "X": inner[0], "Y": inner[1]}

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        images, channels, pixels, groups = (workload.sizes[name] for name in ("N", "C", "S", "G"))
        dtype = getattr(torch, workload.dtype)
        values = draw.activation((images, pixels, channels), dtype).view(images, pixels, groups, channels // groups)
        values = values.transpose(1, 2).flatten(2)  # a row is a group of an image; a constant one gets a mean of four deviations
        values = draw.vary_rows(values.contiguous(), 100.0, 3e-3).mul_(draw.normal(values.shape, dtype, 1 / 4).add_(1))
        values = values.view(images, groups, pixels, channels // groups).transpose(1, 2).reshape(images, pixels, channels)
        return {
            "input": values if workload.sizes["last"] else values.transpose(1, 2).contiguous(),
            "num_groups": groups,
            "weight": draw.parameter((channels,), dtype),
            "bias": draw.weight(lambda: draw.normal((channels,), dtype, 0.5)),
            "eps": 1e-5,
            "channels_last": workload.sizes["last"],
        }

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        x, weight, bias = (torch.as_tensor(args[name]).double() for name in ("input", "weight", "bias"))
        x = x.transpose(1, 2) if args["channels_last"] else x
        grouped = x.reshape(len(x), int(args["num_groups"]), math.prod(x.shape[1:]) // int(args["num_groups"]))
        centred = grouped - grouped.mean(2, keepdim=True)
        normed = centred * (centred.square().mean(2, keepdim=True) + args["eps"]).rsqrt()
        y = torch.nn.functional.silu(normed.view(x.shape) * weight[:, None] + bias[:, None])
        return {"out": y.transpose(1, 2).contiguous() if args["channels_last"] else y}

    def groups(self, args: Mapping[str, Value]) -> dict[str, dict[str, torch.Tensor]]:
        x, count = torch.as_tensor(args["input"]), int(args["num_groups"])
        number = torch.arange(len(x) * count, device=x.device).view(len(x), 1, count)
        return {"out": {"group": number.expand(-1, x.shape[1] if args["channels_last"] else 1, -1).flatten()}}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        elements = workload.sizes["N"] * workload.sizes["C"] * workload.sizes["S"]
        return Cost(bytes=2 * (elements + workload.sizes["C"]) * getattr(torch, workload.dtype).itemsize, flops=11 * elements)


TASK = GroupNormSilu()
