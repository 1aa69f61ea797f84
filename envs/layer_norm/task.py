"""LayerNorm: the normalisation of encoders, vision transformers and pair representations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import msgspec
import torch

from ...task import N1, Baseline, Cost, Input, Output, Scalar, Task, Weight, Workload

if TYPE_CHECKING:
    from ...recipes import Draw
    from ...task import Range, Value


class LayerNorm(Task):
    """Each row less its mean, over its standard deviation, times a weight, plus a bias."""

    entry = "layer_norm"
    summary = "Subtract each row's mean, divide by its standard deviation, multiply by a weight and add a bias."
    semantics = (
        "out[t, h] = (input[t, h] - m) / sqrt(v + eps) * weight[h] + bias[h], with m the mean of row t and v the mean over h of "
        "(input[t, h] - m)^2. A row's mean may be many times its standard deviation. Accumulate in float32 or better and round once, "
        "at the end. All tensors are contiguous."
    )
    mirrors = "torch.nn.functional.layer_norm, liger_kernel.ops.layer_norm.layer_norm_forward"
    level = "L1"
    category = "vision"
    architectures = ("whisper", "siglip2", "qwen3_vl_moe", "dinov3", "openfold3", "bge_m3", "colbert_v2", "v_jepa2", "flux", "sam3")
    signature = (
        Output("out", "T", "H"),
        Input("input", "T", "H"),
        Weight("weight", "H"),
        Weight("bias", "H"),
        Scalar("eps", "float"),
    )
    # A mean of 64 standard deviations in one float32 accumulator is off by up to 1e-4 of them.
    numerics = msgspec.structs.replace(N1, name="N1, float32 RMS 5e-5", rms_floor={**N1.rms_floor, "float32": 5e-5})
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", compile=True),
        Baseline(name="liger", file="liger.py", devices=("cuda",), requires="liger_kernel"),
    )
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"T": (1, 700)}, "cuda": {"T": (1, 6000)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"H": 384}, {"H": 768}, {"H": 3072}), "cuda": ({"H": 384}, {"H": 768}, {"H": 3072}, {"H": 4096})
    }
    independent_rows = True

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        shape, dtype = (workload.sizes["T"], workload.sizes["H"]), getattr(torch, workload.dtype)
        values = draw.vary_rows(draw.activation(shape, dtype), 1e3, 3e-3)
        return {
            "input": values.mul_(draw.normal(shape, dtype, 1 / 64).add_(1)),  # so that a constant row has a mean of 64 deviations
            "weight": draw.parameter(shape[1:], dtype),
            "bias": draw.weight(lambda: draw.normal(shape[1:], dtype, 0.5)),
            "eps": 1e-5,
        }

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        x, weight, bias = (torch.as_tensor(args[name]).double() for name in ("input", "weight", "bias"))
        return {"out": torch.nn.functional.layer_norm(x, weight.shape, weight, bias, float(args["eps"]))}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        elements, width = workload.sizes["T"] * workload.sizes["H"], workload.sizes["H"]
        return Cost(bytes=2 * (elements + width) * getattr(torch, workload.dtype).itemsize, flops=7 * elements)


TASK = LayerNorm()
