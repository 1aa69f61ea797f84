"""SiLU-gated multiplication: the activation between the two projections of a gated MLP."""

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


class SiluAndMul(Task):
    """SiLU of the first half of each row, times the second half."""

    entry = "silu_and_mul"
    summary = "Multiply the SiLU of each row's first half (the gate) by its second half (the up projection)."
    semantics = (
        "out[t, i] = silu(input[t, i]) * input[t, I + i] with silu(g) = g / (1 + exp(-g)), for i in [0, I). Compute in float32 or "
        "better and round once, at the end. Both tensors are contiguous."
    )
    mirrors = "vllm torch.ops._C.silu_and_mul, flashinfer.activation.silu_and_mul"
    level = "L1"
    category = "llm"
    architectures = ("llama", "mixtral", "qwen3_moe", "qwen3_next", "qwen3_vl", "deepseek_v3", "kimi_linear", "llada")
    signature = (
        Output("out", "T", "I"),
        Input("input", "T", "2*I", doc="gate first, then up"),
    )
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", compile=True),
        Baseline(name="flashinfer", file="flashinfer.py", devices=("cuda",), requires="flashinfer"),
    )
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"T": (1, 300)}, "cuda": {"T": (1, 6000)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"I": 1408}, {"I": 2880}, {"I": 9728}), "cuda": ({"I": 1408}, {"I": 2880}, {"I": 9728}, {"I": 18432})
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
        gate, up = _tensor(args, "input").double().chunk(2, dim=-1)
        return {"out": gate * gate.sigmoid() * up}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        elements = workload.sizes["T"] * workload.sizes["I"]
        return Cost(bytes=3 * elements * getattr(torch, workload.dtype).itemsize, flops=5 * elements)


def _tensor(args: Mapping[str, Value], name: str) -> torch.Tensor:
    value = args[name]
    assert isinstance(value, torch.Tensor)
    return value


TASK = SiluAndMul()
