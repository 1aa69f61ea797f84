"""Tanh-GELU-gated multiplication: the activation of Gemma's MLP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from ...rearrange import Rearrangement, Rows
from ...task import Baseline, Cost, Input, Output, Task, Workload

if TYPE_CHECKING:
    from ...rearrange import Entries
    from ...recipes import Draw
    from ...task import Range, Value


class GeluTanhAndMul(Task):
    """GELU (tanh form) of the first half of each row, times the second half."""

    entry = "gelu_tanh_and_mul"
    summary = "Multiply the tanh-GELU of each row's first half (the gate) by its second half (the up projection)."
    semantics = (
        "out[t, i] = gelu(input[t, i]) * input[t, I + i] with gelu(g) = g / 2 * (1 + tanh(sqrt(2 / pi) * (g + 0.044715 * g^3))), "
        "for i in [0, I). Compute in float32 or better and round once, at the end. Both tensors are contiguous."
    )
    mirrors = "vllm torch.ops._C.gelu_tanh_and_mul, flashinfer.activation.gelu_tanh_and_mul"
    level = "L1"
    category = "llm"
    architectures = ("gemma4", "gemma3", "pi0", "flux")
    signature = (
        Output("out", "T", "I"),
        Input("input", "T", "2*I", doc="gate first, then up"),
    )
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", compile=True),
        Baseline(name="flashinfer", file="flashinfer.py", devices=("cuda",), requires="flashinfer"),
        Baseline(name="liger", file="liger.py", devices=("cuda",), requires="liger_kernel"),
    )
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"T": (1, 200)}, "cuda": {"T": (1, 6000)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"I": 2112}, {"I": 2816}, {"I": 10240}), "cuda": ({"I": 2112}, {"I": 2816}, {"I": 6912}, {"I": 10240})
    }

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        tokens, width = workload.sizes["T"], workload.sizes["I"]
        return {"input": draw.vary_rows(draw.activation((tokens, 2 * width), getattr(torch, workload.dtype)), 100.0, 1e-3)}

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """Rows dealt out anew, the second half of each times a sign and a power of two: the product is linear in it."""
        tokens = workload.sizes["T"]
        index, factor = entries.rows(tokens), entries.signs(tokens) * entries.powers(tokens)
        return Rearrangement({"input": Rows(index, factor, first=workload.sizes["I"])}, {"out": Rows(index, factor)})

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        gate, up = torch.as_tensor(args["input"]).double().chunk(2, dim=-1)
        return {"out": torch.nn.functional.gelu(gate, approximate="tanh") * up}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        elements = workload.sizes["T"] * workload.sizes["I"]
        return Cost(bytes=3 * elements * getattr(torch, workload.dtype).itemsize, flops=10 * elements)


TASK = GeluTanhAndMul()
