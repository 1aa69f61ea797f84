"""Gated RMSNorm: the output norm of gated linear attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from ...rearrange import Rearrangement, Rows
from ...task import Baseline, Cost, Input, Output, Scalar, Task, Weight, Workload

if TYPE_CHECKING:
    from ...rearrange import Entries
    from ...recipes import Draw
    from ...task import Range, Value


class GatedRmsNorm(Task):
    """Root-mean-square normalisation of every head's row, times a weight, times an activated gate."""

    entry = "gated_rms_norm"
    summary = "RMS-normalise every row, multiply by a weight, and multiply by the SiLU or the sigmoid of a gate."
    semantics = (
        "Rows r are the T * h heads of all tokens. out[r, i] = x[r, i] / sqrt(mean over i of x[r, i]^2 + eps) * weight[i] * a(gate[r, i]) "
        "with a(g) = 1 / (1 + exp(-g)) if sigmoid is true, else a(g) = g / (1 + exp(-g)). All heads share the weight. The gate comes "
        "after the norm. Compute in float32 or better and round once, at the end. All tensors are contiguous."
    )
    mirrors = "fla.modules.FusedRMSNormGated (rms_norm_gated), vllm RMSNormGated (norm_before_gate=True)"
    level = "L1"
    category = "linear_attn"
    architectures = ("qwen3_next", "kimi_linear", "gla", "retnet")
    signature = (
        Output("out", "T*h", "d"),
        Input("x", "T*h", "d"),
        Input("gate", "T*h", "d"),
        Weight("weight", "d"),
        Scalar("eps", "float"),
        Scalar("sigmoid", "bool", doc="The gate's activation: sigmoid, else SiLU."),
    )
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", compile=True),
        Baseline(name="fla", file="fla.py", devices=("cuda",), requires="fla"),
    )
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"T": (1, 100)}, "cuda": {"T": (1, 2000)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"h": 5, "d": 320}, {"h": 3, "d": 192}, {"h": 8, "d": 96}),
        "cuda": ({"h": 5, "d": 320}, {"h": 3, "d": 192}, {"h": 10, "d": 512}),
    }

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        shape = (workload.sizes["T"] * workload.sizes["h"], workload.sizes["d"])
        dtype = getattr(torch, workload.dtype)
        return {
            "x": draw.vary_rows(draw.activation(shape, dtype), 1e4, 1e-3),
            "gate": draw.vary_rows(draw.activation(shape, dtype), 10.0, 1e-2),
            "weight": draw.parameter(shape[1:], dtype),
            "eps": workload.params["eps"],
            "sigmoid": bool(workload.params["sigmoid"]),
        }

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """Rows dealt out anew, each of x with either sign: that goes through the norm."""
        rows = workload.sizes["T"] * workload.sizes["h"]
        index, sign = entries.rows(rows), entries.signs(rows)
        return Rearrangement({"x": Rows(index, sign), "gate": Rows(index)}, {"out": Rows(index, sign)})

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        x, gate, weight = (torch.as_tensor(args[name]).double() for name in ("x", "gate", "weight"))
        normed = x * (x.square().mean(-1, keepdim=True) + args["eps"]).rsqrt() * weight
        return {"out": normed * gate.sigmoid() * (1 if args["sigmoid"] else gate)}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        width, item = workload.sizes["d"], getattr(torch, workload.dtype).itemsize
        elements = workload.sizes["T"] * workload.sizes["h"] * width
        return Cost(bytes=(3 * elements + width) * item, flops=8 * elements)


TASK = GatedRmsNorm()
