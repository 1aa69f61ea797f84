"""Linear layer at decode batch sizes: every projection of a decoder layer, bound by reading its weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from ...task import Baseline, Cost, Input, Output, Task, Weight, Workload

if TYPE_CHECKING:
    from ...recipes import Draw
    from ...task import Range, Value


class LinearDecode(Task):
    """A linear layer applied to at most 64 tokens."""

    entry = "linear_decode"
    version = 2
    summary = "Apply a linear layer to the few tokens of a decode step."
    semantics = (
        "out[m, n] = bias[n] + sum over k of x[m, k] * weight[n, k], for M of at most 64 tokens. Accumulate in float32 or better "
        "(for float32 inputs TF32 is not precise enough) and round once, at the end. All tensors are contiguous."
    )
    mirrors = "torch.nn.functional.linear (cuBLASLt), as vLLM's unquantised linear layers call it"
    level = "L1"
    category = "llm"
    architectures = ("llama", "mixtral", "qwen3_moe", "qwen3_next", "qwen3_vl", "gpt_oss", "gla", "mamba2", "whisper", "llada")
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
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"M": (1, 64)}, "cuda": {"M": (1, 64)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"N": 1000, "K": 1408}, {"N": 640, "K": 2880}),
        "cuda": ({"N": 5120, "K": 2880}, {"N": 2816, "K": 2048}, {"N": 1536, "K": 1408}),
    }
    batch = "M"
    independent_rows = True  # no signs: the bias would come back with the wrong one

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        tokens, width, depth = (workload.sizes[size] for size in ("M", "N", "K"))
        dtype = getattr(torch, workload.dtype)
        return {
            "x": draw.vary_rows(draw.activation((tokens, depth), dtype), 4.0, 1e-3),
            "weight": draw.matrix((width, depth), dtype, depth, one_sign=True),
            "bias": draw.normal((width,), dtype),
        }

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        x, weight, bias = (_tensor(args, name).double() for name in ("x", "weight", "bias"))
        return {"out": torch.addmm(bias, x, weight.t())}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        tokens, width, depth = (workload.sizes[size] for size in ("M", "N", "K"))
        elements = width * depth + tokens * depth + tokens * width + width
        return Cost(bytes=elements * getattr(torch, workload.dtype).itemsize, flops=2 * tokens * width * depth)


def _tensor(args: Mapping[str, Value], name: str) -> torch.Tensor:
    value = args[name]
    assert isinstance(value, torch.Tensor)
    return value


TASK = LinearDecode()
