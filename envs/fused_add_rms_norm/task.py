"""Residual addition and RMSNorm in one pass: twice in every decoder layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from ...rearrange import Rearrangement, Rows
from ...task import Baseline, Cost, InOut, Scalar, Task, Weight, Workload
from ...types import Regime

if TYPE_CHECKING:
    from ...rearrange import Entries
    from ...recipes import Draw
    from ...task import Range, Value

RESIDUAL_SCALE = 10.0


class FusedAddRmsNorm(Task):
    """Adds the input to the residual stream and normalises the sum, both in place."""

    entry = "fused_add_rms_norm"
    summary = "Add the input to the residual, then overwrite the input with the RMS-normalised sum times a weight."
    semantics = (
        "With s[t, h] = input[t, h] + residual[t, h] in float32: residual[t, h] = s[t, h], rounded to the tensor's dtype, and "
        "input[t, h] = s[t, h] / sqrt(mean over h of s[t, h]^2 + epsilon) * weight[h]. Both arguments are overwritten in place. "
        "The norm is taken of the unrounded sum; accumulate in float32 or better and round once, at the end. All tensors are "
        "contiguous."
    )
    mirrors = "vllm._custom_ops.fused_add_rms_norm, flashinfer.norm.fused_add_rmsnorm"
    level = "L1"
    category = "llm"
    architectures = ("llama", "mixtral", "qwen3_moe", "qwen3_vl", "deepseek_v3", "gpt_oss", "kimi_linear", "gla")
    signature = (
        InOut("input", "T", "H"),
        InOut("residual", "T", "H"),
        Weight("weight", "H"),
        Scalar("epsilon", "float"),
    )
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", compile=True),
        Baseline(name="flashinfer", file="flashinfer.py", devices=("cuda",), requires="flashinfer"),
        Baseline(name="liger", file="liger.py", devices=("cuda",), requires="liger_kernel"),
    )
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"T": (1, 400)}, "cuda": {"T": (1, 6000)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"H": 1536}, {"H": 2880}), "cuda": ({"H": 1536}, {"H": 2880}, {"H": 5120})
    }

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        shape = (workload.sizes["T"], workload.sizes["H"])
        dtype = getattr(torch, workload.dtype)
        x = draw.vary_rows(draw.activation(shape, dtype), 100.0, 1e-3)
        residual = draw.vary_rows(draw.activation(shape, dtype, RESIDUAL_SCALE), 100.0, 1e-3)
        if draw.regime is not Regime.NORMAL:
            # Padding slots of a CUDA graph hold rows this small; in them alone can the output show a wrong epsilon.
            x[15::16] *= 1e-3
            residual[15::16] *= 1e-3
        return {"input": x, "residual": residual, "weight": draw.parameter(shape[1:], dtype), "epsilon": 1e-5}

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """Rows dealt out anew, each with either sign, the same in both tensors: it goes through sum and norm."""
        tokens = workload.sizes["T"]
        rows = Rows(entries.rows(tokens), entries.signs(tokens))
        return Rearrangement({"input": rows, "residual": rows}, {"input": rows, "residual": rows})

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        total = _tensor(args, "input").double() + _tensor(args, "residual").double()
        scale = (total.square().mean(-1, keepdim=True) + args["epsilon"]).rsqrt()
        return {"input": total * scale * _tensor(args, "weight").double(), "residual": total}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        elements = workload.sizes["T"] * workload.sizes["H"]
        size = getattr(torch, workload.dtype).itemsize
        return Cost(bytes=4 * elements * size + workload.sizes["H"] * size, flops=5 * elements)


def _tensor(args: Mapping[str, Value], name: str) -> torch.Tensor:
    value = args[name]
    assert isinstance(value, torch.Tensor)
    return value


TASK = FusedAddRmsNorm()
