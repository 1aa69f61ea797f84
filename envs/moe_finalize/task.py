"""The sum over experts that ends a mixture-of-experts layer."""

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


class MoeFinalize(Task):
    """Sum of the k expert outputs of every token."""

    entry = "moe_sum"
    summary = "Sum the outputs of every token's k experts, which carry their routing weights already."
    semantics = (
        "output[t, h] = sum over j in [0, k) of input[t, j, h]. Accumulate in float32 or better and round once. Both tensors are "
        "contiguous; output is the argument that is written. k is small, but any number from 1 on."
    )
    mirrors = "vllm._custom_ops.moe_sum"
    level = "L1"
    category = "llm"
    architectures = ("mixtral", "qwen3_moe", "qwen3_next", "qwen3_vl_moe", "deepseek_v3", "kimi_linear", "gpt_oss", "jamba")
    signature = (
        Input("input", "T", "k", "H"),
        Output("output", "T", "H"),
    )
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", compile=True),
    )
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"T": (1, 100)}, "cuda": {"T": (1, 3000)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"k": 1, "H": 2880}, {"k": 6, "H": 1408}, {"k": 10, "H": 2304}),
        "cuda": ({"k": 1, "H": 5120}, {"k": 6, "H": 1408}, {"k": 10, "H": 2304}),
    }

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        shape = tuple(workload.sizes[name] for name in ("T", "k", "H"))
        values = draw.vary_rows(draw.activation(shape, getattr(torch, workload.dtype)), 100.0, 1e-2)
        if shape[1] > 1 and values.numel():  # some tokens cancel: their experts' sum is small beside each of them
            values[::8, -1] = values[::8, 0].mul(-0.75)
        return {"input": values}

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """Tokens dealt out anew, each times a sign and a power of two."""
        tokens = workload.sizes["T"]
        rows = Rows(entries.rows(tokens), entries.signs(tokens) * entries.powers(tokens))
        return Rearrangement({"input": rows}, {"output": rows})

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        return {"output": torch.as_tensor(args["input"]).double().sum(1)}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        tokens, experts, width = (workload.sizes[name] for name in ("T", "k", "H"))
        moved = tokens * (experts + 1) * width * getattr(torch, workload.dtype).itemsize
        return Cost(bytes=moved, flops=tokens * experts * width)


TASK = MoeFinalize()
