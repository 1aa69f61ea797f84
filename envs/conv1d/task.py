"""Convolution over time: the stems of speech encoders, positional convolutions, vocoders and audio codecs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from ...task import Baseline, Cost, Input, Output, Scalar, Task, Weight, Workload

if TYPE_CHECKING:
    from ...recipes import Draw
    from ...task import Range, Value


class Conv1d(Task):
    """Filters over a sequence with stride, zero padding, dilation and groups of channels, and a bias."""

    entry = "conv1d"
    summary = "Convolve sequences of channels with filters, with stride, zero padding, dilation and groups, and add a bias."
    semantics = (
        "out[b, o, l] = bias[o] + sum over c < C // groups, r < k of weight[o, c, r] * input[b, g * (C // groups) + c, l * stride - "
        "padding + r * dilation], where g = o // (O // groups) is the group of filter o, and places outside of [0, L) count as zeros: a "
        "cross-correlation, as in PyTorch. OL = (L + 2 * padding - dilation * (k - 1) - 1) // stride + 1. groups divides C and O. C may be "
        "1, L may be smaller than the filters reach, and B may be zero. Accumulate in float32 or better (for float32 inputs TF32 is not "
        "precise enough) and round once, at the end. All tensors are contiguous."
    )
    mirrors = "torch.nn.functional.conv1d (cuDNN, oneDNN)"
    level = "L1"
    category = "edge"
    architectures = ("whisper", "wav2vec2", "hubert", "data2vec_audio", "cosyvoice3", "qwen2_5_omni", "encodec", "speecht5")
    signature = (
        Output("out", "B", "O", "OL"),
        Input("input", "B", "C", "L"),
        Weight("weight", "O", "C//G", "k"),
        Weight("bias", "O"),
        Scalar("stride", "int"),
        Scalar("padding", "int", doc="Zeros on either side."),
        Scalar("dilation", "int", doc="Distance between the places that a filter sees."),
        Scalar("groups", "int"),
    )
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", compile=True),
    )
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"B": (1, 3), "L": (10, 80)}, "cuda": {"B": (1, 8), "L": (10, 3000)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": (
            {"C": 100, "O": 84, "k": 7, "stride": 1, "pad": 3, "dil": 1, "G": 1},
            {"C": 72, "O": 40, "k": 3, "stride": 2, "pad": 1, "dil": 1, "G": 1},
            {"C": 36, "O": 36, "k": 11, "stride": 1, "pad": 25, "dil": 5, "G": 1},
            {"C": 88, "O": 104, "k": 5, "stride": 3, "pad": 4, "dil": 2, "G": 4},
        ),
        "cuda": (
            {"C": 100, "O": 520, "k": 7, "stride": 1, "pad": 3, "dil": 1, "G": 1},
            {"C": 360, "O": 328, "k": 3, "stride": 2, "pad": 1, "dil": 1, "G": 1},
            {"C": 72, "O": 72, "k": 11, "stride": 1, "pad": 25, "dil": 5, "G": 1},
            {"C": 88, "O": 104, "k": 5, "stride": 3, "pad": 4, "dil": 2, "G": 4},
        ),
    }
    batch = "B"
    independent_rows = True  # sequences; no signs: the bias would come back with the wrong one

    def complete(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Places OL of the output."""
        reach = sizes["dil"] * (sizes["k"] - 1) + 1
        return {**sizes, "OL": (sizes["L"] + 2 * sizes["pad"] - reach) // sizes["stride"] + 1}

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        batch, length, channels, filters, kernel, groups = (workload.sizes[name] for name in ("B", "L", "C", "O", "k", "G"))
        dtype, depth = getattr(torch, workload.dtype), channels // groups * kernel
        values = draw.vary_rows(draw.activation((batch, length, channels), dtype), 4.0, 1e-3)
        return {
            "input": values.transpose(1, 2).contiguous(),  # channels differ in scale, places in content
            "weight": draw.matrix((filters, depth), dtype, depth, one_sign=True).view(filters, channels // groups, kernel),
            "bias": draw.weight(lambda: draw.normal((filters,), dtype)),
            "stride": workload.sizes["stride"],
            "padding": workload.sizes["pad"],
            "dilation": workload.sizes["dil"],
            "groups": groups,
        }

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        """One matrix product for every sequence: PyTorch's own convolution is slow in float64."""
        x, weight, bias = (torch.as_tensor(args[name]).double() for name in ("input", "weight", "bias"))
        stride, padding, dilation, groups = (int(args[name]) for name in ("stride", "padding", "dilation", "groups"))
        filters, _, kernel = weight.shape
        x = torch.nn.functional.pad(x, (padding, padding))
        windows = x.unfold(2, dilation * (kernel - 1) + 1, stride)[..., ::dilation]  # [B, C, OL, k], a view
        out = bias[:, None].expand(len(x), filters, windows.shape[2]).clone()
        for sequence, window in zip(out, windows, strict=True):
            seen = window.transpose(1, 2).reshape(groups, -1, window.shape[1])  # [groups, C / groups * k, OL]
            sequence += (weight.view(groups, filters // groups, -1) @ seen).view_as(sequence)
        return {"out": out}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        sizes = self.complete(workload.sizes)
        batch, channels, filters, kernel, groups, length = (sizes[name] for name in ("B", "C", "O", "k", "G", "L"))
        seen, taps = torch.zeros(length, dtype=torch.bool), 0
        for place in range(kernel):  # zeros of the padding need no work, and what lies between strides is not read
            start = place * sizes["dil"] - sizes["pad"]
            end = start + (sizes["OL"] - 1) * sizes["stride"] + 1
            under = seen[max(start, start % sizes["stride"]) : max(end, 0) : sizes["stride"]]
            under.fill_(True)
            taps += len(under)
        elements = batch * (int(seen.sum()) * channels + sizes["OL"] * filters) + filters * (channels // groups * kernel + 1)
        flops = 2 * batch * taps * (channels // groups) * filters
        return Cost(bytes=elements * getattr(torch, workload.dtype).itemsize, flops=flops)


TASK = Conv1d()
