"""Convolution of channels-last images: the workhorse of diffusion models' residual blocks and of detectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from ...task import Baseline, Cost, Input, Output, Scalar, Task, Weight, Workload

if TYPE_CHECKING:
    from ...recipes import Draw
    from ...task import Range, Value


class Conv2dNhwc(Task):
    """A dense square filter over images whose channels lie next to each other, and a bias."""

    entry = "conv2d_nhwc"
    summary = "Convolve channels-last images with dense square filters, with stride and zero padding, and add a bias."
    semantics = (
        "out[n, y, x, o] = bias[o] + sum over r < k, s < k, c < C of weight[o, r, s, c] * input[n, y * stride - padding + r, "
        "x * stride - padding + s, c], where pixels outside of the image (H rows of W pixels) count as zeros: a cross-correlation, as in "
        "PyTorch. OH = (H + 2 * padding - k) // stride + 1, OW likewise. The weight has the memory order of a channels-last PyTorch "
        "weight. C may be as small as 3. N may be zero. Accumulate in float32 or better (for float32 inputs TF32 is not precise enough) "
        "and round once, at the end. All tensors are contiguous."
    )
    mirrors = "torch.nn.functional.conv2d on torch.channels_last tensors (cuDNN)"
    level = "L1"
    category = "vision"
    architectures = ("sdxl", "yolov10", "sam3", "rtdetr_v2", "mobilenetv4", "efficientnetv2", "convnextv2", "oasis", "dinov3")
    signature = (
        Output("out", "N", "OH", "OW", "O"),
        Input("input", "N", "H", "W", "C"),
        Weight("weight", "O", "k", "k", "C"),
        Weight("bias", "O"),
        Scalar("stride", "int"),
        Scalar("padding", "int", doc="Rows and columns of zeros on every side."),
    )
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", compile=True),
    )
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {
        "cpu": {"N": (1, 3), "H": (3, 13), "W": (3, 13)}, "cuda": {"N": (1, 8), "H": (3, 100), "W": (3, 100)}
    }
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": (
            {"C": 24, "O": 84, "k": 3, "stride": 2, "pad": 1}, {"C": 136, "O": 72, "k": 3, "stride": 2, "pad": 0},
            {"C": 40, "O": 40, "k": 7, "stride": 2, "pad": 3}, {"C": 88, "O": 80, "k": 5, "stride": 1, "pad": 2},
        ),
        "cuda": (
            {"C": 24, "O": 96, "k": 3, "stride": 2, "pad": 1}, {"C": 128, "O": 128, "k": 3, "stride": 2, "pad": 0},
            {"C": 3, "O": 40, "k": 7, "stride": 2, "pad": 3}, {"C": 80, "O": 80, "k": 5, "stride": 1, "pad": 2},
            {"C": 960, "O": 320, "k": 3, "stride": 1, "pad": 1},
        ),
    }
    batch = "N"
    independent_rows = True  # images; no signs: the bias would come back with the wrong one

    def complete(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Rows OH and columns OW of the output."""
        high, wide = ((sizes[side] + 2 * sizes["pad"] - sizes["k"]) // sizes["stride"] + 1 for side in ("H", "W"))
        return {**sizes, "OH": high, "OW": wide}

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        images, height, width, channels, filters, kernel = (workload.sizes[name] for name in ("N", "H", "W", "C", "O", "k"))
        dtype, depth = getattr(torch, workload.dtype), kernel * kernel * channels
        return {
            "input": draw.vary_rows(draw.activation((images, height, width, channels), dtype), 4.0, 1e-3),
            "weight": draw.matrix((filters, depth), dtype, depth, one_sign=True).view(filters, kernel, kernel, channels),
            "bias": draw.weight(lambda: draw.normal((filters,), dtype)),
            "stride": workload.sizes["stride"],
            "padding": workload.sizes["pad"],
        }

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        x, weight = (torch.as_tensor(args[name]).double().permute(0, 3, 1, 2).contiguous() for name in ("input", "weight"))
        bias, stride, padding = torch.as_tensor(args["bias"]).double(), int(args["stride"]), int(args["padding"])
        return {"out": torch.nn.functional.conv2d(x, weight, bias, stride, padding).permute(0, 2, 3, 1).contiguous()}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        sizes = self.complete(workload.sizes)
        images, channels, filters, kernel = (sizes[name] for name in ("N", "C", "O", "k"))
        rows, columns = _taps(sizes, "H", "OH"), _taps(sizes, "W", "OW")  # zeros of the padding need no work
        read = min(rows, sizes["H"]) * min(columns, sizes["W"])  # a stride wider than the filter leaves pixels out
        elements = images * (read * channels + sizes["OH"] * sizes["OW"] * filters) + filters * (kernel * kernel * channels + 1)
        return Cost(bytes=elements * getattr(torch, workload.dtype).itemsize, flops=2 * images * rows * columns * channels * filters)


def _taps(sizes: Mapping[str, int], side: str, out: str) -> int:
    """How often a filter's row (or column) lies on one of the image's, over all rows of the output."""
    starts = [place * sizes["stride"] - sizes["pad"] for place in range(sizes[out])]
    return sum(min(start + sizes["k"], sizes[side]) - max(start, 0) for start in starts)


TASK = Conv2dNhwc()
