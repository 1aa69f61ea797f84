"""Linear layer at prefill batch sizes: every projection of a decoder layer, bound by arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from ...task import Baseline, Cost, Input, Output, Task, Weight, Workload

if TYPE_CHECKING:
    from ...recipes import Draw
    from ...task import Range, Value


class LinearPrefill(Task):
    """A linear layer applied to hundreds or thousands of tokens."""

    entry = "linear_prefill"
    summary = "Apply a linear layer to the many tokens of a prefill step."
    semantics = (
        "out[m, n] = bias[n] + sum over k of x[m, k] * weight[n, k]. M is mostly in the hundreds or thousands, but any M is legal. "
        "Accumulate in float32 or better (for float32 inputs TF32 is not precise enough) and round once, at the end. All tensors are "
        "contiguous."
    )
    mirrors = "torch.nn.functional.linear (cuBLASLt), as vLLM's unquantised linear layers call it"
    level = "L1"
    category = "llm"
    architectures = ("llama", "mixtral", "qwen3_moe", "qwen3_next", "qwen3_vl", "gpt_oss", "gla", "mamba2", "whisper", "bge_m3")
    signature = (
        Output("out", "M", "N"),
        Input("x", "M", "K"),
        Weight("weight", "N", "K"),
        Weight("bias", "N"),
    )
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", compile=True),
    )
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"M": (1, 300)}, "cuda": {"M": (1, 9000)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"N": 1000, "K": 408}, {"N": 328, "K": 1160}),
        "cuda": ({"N": 3352, "K": 768}, {"N": 2880, "K": 4096}, {"N": 1000, "K": 1416}),
    }
    batch = "M"
    independent_rows = True  # no signs: the bias would come back with the wrong one

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        tokens, width, depth = (workload.sizes[size] for size in ("M", "N", "K"))
        dtype = getattr(torch, workload.dtype)
        return {
            "x": draw.vary_rows(draw.activation((tokens, depth), dtype), 4.0, 1e-3),
            "weight": draw.matrix((width, depth), dtype, depth, one_sign=True),
            "bias": draw.weight(lambda: draw.normal((width,), dtype)),
        }

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        x, weight, bias = (torch.as_tensor(args[name]).double() for name in ("x", "weight", "bias"))
        return {"out": torch.addmm(bias, x, weight.t())}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        tokens, width, depth = (workload.sizes[size] for size in ("M", "N", "K"))
        elements = width * depth + tokens * depth + tokens * width + width
        return Cost(bytes=elements * getattr(torch, workload.dtype).itemsize, flops=2 * tokens * width * depth)


TASK = LinearPrefill()
