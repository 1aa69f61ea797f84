"""Residual addition, RMSNorm and quantisation to eight-bit floats in one pass: in front of every projection of an fp8 model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import msgspec
import torch

from ...quantise import GROUP, LEAST_SCALE, N2, block_scales, spread
from ...task import Baseline, Cost, Gate, InOut, Input, Output, Scalar, Task, Weight, Workload
from ...types import Regime

if TYPE_CHECKING:
    from ...recipes import Draw
    from ...task import Range, Value

RESIDUAL_SCALE, MASSIVE = 10.0, 5e5


class AddRmsNormFp8(Task):
    """Adds the input to the residual stream, normalises the sum, and quantises it in groups of 128."""

    entry = "add_rms_norm_fp8"
    summary = "Add the input to the residual in place, and quantise the RMS-normalised sum to fp8 with one scale for each 128 elements."
    semantics = (
        "With s[t, h] = input[t, h] + residual[t, h] in float32: residual[t, h] = s[t, h], rounded to the tensor's dtype, and "
        "y[t, h] = s[t, h] / sqrt(mean over h of s[t, h]^2 + epsilon) * weight[h], of the unrounded sum and not rounded in between. "
        "scale[t, g] = max(max over the 128 elements h of group g of |y[t, h]| / 448, 1 / (448 * 512)), where group g is h in "
        "[128 g, 128 g + 128), and result[t, h] = y[t, h] / scale[t, h // 128], clamped to [-448, 448] and rounded to the nearest "
        "float8_e4m3fn. Compute in float32 or better. H is a multiple of 128. All tensors are contiguous."
    )
    mirrors = "vllm torch.ops._C.rms_norm_per_block_quant with a residual, group size 128 and row-major scales"
    level = "L2"
    category = "llm"
    architectures = ("deepseek_v3", "qwen3_vl_moe", "qwen3_moe", "kimi_linear", "glm_moe")
    signature = (
        Output("result", "T", "H", dtype="float8_e4m3fn"),
        Input("input", "T", "H"),
        Weight("weight", "H"),
        Output("scale", "T", f"H//{GROUP}", dtype="float32"),
        Scalar("epsilon", "float"),
        InOut("residual", "T", "H"),
    )
    # Scales are around 1e-2 and never below 4e-6: there is nothing for an absolute tolerance to do.
    numerics = msgspec.structs.replace(N2, outputs={"scale": Gate(1e-9, 1e-3)})
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", compile=True),
    )
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"T": (1, 200)}, "cuda": {"T": (1, 6000)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"H": 1536}, {"H": 640}), "cuda": ({"H": 1536}, {"H": 2304}, {"H": 5120})
    }
    independent_rows = True  # no signs: eight-bit numbers cannot be multiplied where answers are rearranged

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        shape = (workload.sizes["T"], workload.sizes["H"])
        dtype = getattr(torch, workload.dtype)
        x = draw.vary_rows(draw.activation(shape, dtype), 100.0, 1e-3)
        residual = draw.vary_rows(draw.activation(shape, dtype, RESIDUAL_SCALE), 100.0, 1e-3)
        if draw.regime is not Regime.NORMAL:
            # Padding slots of a CUDA graph hold rows this small: in some a wrong epsilon shows, in the others the least scale counts.
            for first, factor in ((15, 1e-4), (7, 1e-7)):
                x[first::16] *= factor
                residual[first::16] *= factor
            # Massive activations, one channel of each group: beside them the codes of all others are subnormal.
            channel = int(torch.randint(GROUP, (1,), generator=draw.host))
            residual[3::16, channel::GROUP] = residual[3::16, channel::GROUP].sign() * MASSIVE
        return {"input": x, "weight": draw.parameter(shape[1:], dtype), "epsilon": workload.params["epsilon"], "residual": residual}

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        x, weight, residual = (torch.as_tensor(args[name]).double() for name in ("input", "weight", "residual"))
        total = x + residual
        normed = total * (total.square().mean(-1, keepdim=True) + args["epsilon"]).rsqrt() * weight
        scale = block_scales(normed, 1, GROUP, LEAST_SCALE)
        return {"result": normed / spread(scale, normed.shape, 1, GROUP), "scale": scale, "residual": total}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        elements, item = workload.sizes["T"] * workload.sizes["H"], getattr(torch, workload.dtype).itemsize
        moved = 3 * elements * item + elements + elements // GROUP * 4 + workload.sizes["H"] * item
        return Cost(bytes=moved, flops=8 * elements)


TASK = AddRmsNormFp8()
