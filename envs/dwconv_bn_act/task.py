"""Depthwise convolution with a folded batch norm and an activation: the spatial half of every mobile network's block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from ...task import Baseline, Cost, Input, Output, Scalar, Task, Weight, Workload

if TYPE_CHECKING:
    from ...recipes import Draw
    from ...task import Range, Value


class DwconvBnAct(Task):
    """One square filter for each channel of channels-last images, a bias, and an activation."""

    entry = "dwconv_bn_act"
    summary = "Convolve every channel of channels-last images with a filter of its own, add a bias, and apply an activation."
    semantics = (
        "y[n, i, j, c] = bias[c] + sum over r < k, s < k of weight[c, r, s] * input[n, i * stride - padding + r, j * stride - padding + s, "
        "c], where pixels outside of the image (H rows of W pixels) count as zeros: a cross-correlation, as in PyTorch. out = y where "
        "activation is 0, max(y, 0) where it is 1, y / (1 + exp(-y)) where it is 2. OH = (H + 2 * padding - k) // stride + 1, OW likewise; "
        "k is 3, 5 or 7. Batch norm is folded into weight and bias. N may be zero. Compute in float32 or better and round once, at the "
        "end. All tensors are contiguous."
    )
    mirrors = (
        "torch.nn.functional.conv2d(groups=C) on torch.channels_last tensors and the activation, as ultralytics' Conv.forward_fuse and "
        "timm's ConvNormAct after fuse_conv_bn_weights"
    )
    level = "L2"
    category = "edge"
    architectures = ("yolov10", "mobilenetv4", "convnextv2", "efficientnetv2")
    signature = (
        Output("out", "N", "OH", "OW", "C"),
        Input("input", "N", "H", "W", "C"),
        Weight("weight", "C", "k", "k"),
        Weight("bias", "C"),
        Scalar("stride", "int"),
        Scalar("padding", "int", doc="Rows and columns of zeros on every side."),
        Scalar("activation", "int", doc="0 for none, 1 for ReLU, 2 for SiLU."),
    )
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", compile=True),
    )
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {
        "cpu": {"N": (1, 3), "H": (3, 12), "W": (3, 12)}, "cuda": {"N": (1, 20), "H": (3, 100), "W": (3, 100)}
    }
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": (
            {"C": 72, "k": 5, "stride": 1, "pad": 2, "act": 1}, {"C": 40, "k": 3, "stride": 2, "pad": 0, "act": 2},
            {"C": 152, "k": 7, "stride": 1, "pad": 3, "act": 0}, {"C": 84, "k": 3, "stride": 1, "pad": 1, "act": 2},
        ),
        "cuda": (
            {"C": 72, "k": 5, "stride": 1, "pad": 2, "act": 1}, {"C": 40, "k": 3, "stride": 2, "pad": 0, "act": 2},
            {"C": 152, "k": 7, "stride": 1, "pad": 3, "act": 0}, {"C": 1968, "k": 3, "stride": 1, "pad": 1, "act": 2},
        ),
    }
    batch = "N"
    independent_rows = True  # images; no signs: the bias would come back with the wrong one

    def complete(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Rows OH and columns OW of the output."""
        high, wide = ((sizes[side] + 2 * sizes["pad"] - sizes["k"]) // sizes["stride"] + 1 for side in ("H", "W"))
        return {**sizes, "OH": high, "OW": wide}

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        images, height, width, channels, kernel = (workload.sizes[name] for name in ("N", "H", "W", "C", "k"))
        dtype = getattr(torch, workload.dtype)
        return {
            "input": draw.vary_rows(draw.activation((images, height, width, channels), dtype), 4.0, 1e-2),
            # Filters of networks differ much from channel to channel; the mean of one is not zero, as that of a blur.
            "weight": draw.weight(lambda: draw.normal((channels, kernel, kernel), dtype, 1 / kernel).add_(0.3 / kernel)),
            "bias": draw.weight(lambda: draw.normal((channels,), dtype, 0.5)),
            "stride": workload.sizes["stride"],
            "padding": workload.sizes["pad"],
            "activation": workload.sizes["act"],
        }

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        x, weight, bias = (torch.as_tensor(args[name]).double() for name in ("input", "weight", "bias"))
        stride, padding, kernel = int(args["stride"]), int(args["padding"]), weight.shape[1]
        x = torch.nn.functional.pad(x, (0, 0, padding, padding, padding, padding))
        windows = x.unfold(1, kernel, stride).unfold(2, kernel, stride)  # [N, OH, OW, C, r, s], a view
        y = bias.expand(windows.shape[:4]).clone()
        for row in range(kernel):
            for column in range(kernel):
                y.addcmul_(windows[..., row, column], weight[:, row, column])
        activation = int(args["activation"])
        return {"out": torch.nn.functional.silu(y) if activation == 2 else y.relu() if activation == 1 else y}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        sizes = self.complete(workload.sizes)
        images, channels, kernel = (sizes[name] for name in ("N", "C", "k"))
        rows, columns = _taps(sizes, "H", "OH"), _taps(sizes, "W", "OW")  # zeros of the padding need no work
        pixels = min(rows, sizes["H"]) * min(columns, sizes["W"]) + sizes["OH"] * sizes["OW"]
        elements = images * pixels * channels + channels * (kernel * kernel + 1)
        return Cost(bytes=elements * getattr(torch, workload.dtype).itemsize, flops=2 * images * rows * columns * channels)


def _taps(sizes: Mapping[str, int], side: str, out: str) -> int:
    """How often a filter's row (or column) lies on one of the image's, over all rows of the output."""
    starts = [place * sizes["stride"] - sizes["pad"] for place in range(sizes[out])]
    return sum(min(start + sizes["k"], sizes[side]) - max(start, 0) for start in starts)


TASK = DwconvBnAct()
