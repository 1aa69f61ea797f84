"""RMSNorm: the normalisation of nearly every decoder layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import msgspec
import torch

from ...rearrange import Rearrangement, Rows
from ...task import N1, Baseline, Cost, Input, Output, Scalar, Task, Weight, Workload

if TYPE_CHECKING:
    from ...rearrange import Entries
    from ...recipes import Draw
    from ...task import Range, Value

LARGE, SMALL = 1e4, 1e-4
"""Scales of some rows: squares that only float32 holds, and rows in which the epsilon counts."""


class RmsNorm(Task):
    """Root-mean-square normalisation of each row, times a weight."""

    entry = "rms_norm"
    version = 2
    summary = "Divide each row by its root mean square and multiply by a weight."
    semantics = (
        "out[t, h] = input[t, h] / sqrt(mean over h of input[t, h]^2 + epsilon) * weight[h]. Accumulate in float32 or better and "
        "round once, at the end. `input` may have a row stride larger than H (a slice of a wider tensor); `out` is contiguous."
    )
    mirrors = "vllm._custom_ops.rms_norm, flashinfer.norm.rmsnorm"
    level = "L1"
    category = "llm"
    architectures = ("llama", "mixtral", "qwen3_moe", "qwen3_next", "deepseek_v3", "gpt_oss", "kimi_linear", "gla", "llada")
    signature = (
        Output("out", "T", "H"),
        Input("input", "T", "H", row_stride="row_stride"),
        Weight("weight", "H"),
        Scalar("epsilon", "float"),
    )
    # A row may hold one value throughout, and a sum of 4096 equal squares in one float32 accumulator puts the root off by up to 3e-5.
    numerics = msgspec.structs.replace(N1, name="N1, float32 RMS 5e-5", rms_floor={**N1.rms_floor, "float32": 5e-5})
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", compile=True),
        Baseline(name="flashinfer", file="flashinfer.py", devices=("cuda",), requires="flashinfer"),
        Baseline(name="liger", file="liger.py", devices=("cuda",), requires="liger_kernel"),
    )
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"T": (1, 700)}, "cuda": {"T": (1, 6000)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"H": 128}, {"H": 1536}, {"H": 2880}), "cuda": ({"H": 128}, {"H": 1536}, {"H": 2880}, {"H": 5120}, {"H": 7168})
    }

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        tokens, width = workload.sizes["T"], workload.sizes["H"]
        dtype = getattr(torch, workload.dtype)
        return {
            "input": draw.vary_rows(draw.activation((tokens, width), dtype), LARGE, SMALL),
            "weight": draw.parameter((width,), dtype),
            "epsilon": 1e-5,
        }

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """Rows dealt out anew, each with either sign: a row's sign goes through the norm."""
        tokens = workload.sizes["T"]
        rows = Rows(entries.rows(tokens), entries.signs(tokens))
        return Rearrangement({"input": rows}, {"out": rows})

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        x, weight, epsilon = args["input"], args["weight"], args["epsilon"]
        assert isinstance(x, torch.Tensor) and isinstance(weight, torch.Tensor)
        x = x.double()
        return {"out": x * (x.square().mean(-1, keepdim=True) + epsilon).rsqrt() * weight.double()}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        elements = workload.sizes["T"] * workload.sizes["H"]
        size = getattr(torch, workload.dtype).itemsize
        return Cost(bytes=2 * elements * size + workload.sizes["H"] * size, flops=4 * elements)


TASK = RmsNorm()
