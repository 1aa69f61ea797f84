"""The gated MLP of a Llama decoder layer: a fused gate and up projection, SiLU-and-multiply, the down projection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from ...task import Baseline, Cost, Input, Output, Task, Weight, Workload

if TYPE_CHECKING:
    from ...recipes import Draw
    from ...task import Range, Value


class LlamaMlp(Task):
    """Two projections around a gated activation."""

    entry = "llama_mlp"
    summary = "Run every token through a gated MLP: gate and up projection in one weight, SiLU of the gate times up, down projection."
    semantics = (
        "out[t] = down_weight @ (silu(g) * u), where g = gate_up_weight[:I] @ x[t] (the first I rows are the gate), "
        "u = gate_up_weight[I:] @ x[t] and silu(v) = v / (1 + exp(-v)). Accumulate in float32 or better (for float32 inputs TF32 is not "
        "precise enough). Intermediate results, which are g, u and silu(g) * u, may be kept in float32 or rounded to the tensors' dtype "
        "once each, as production does. T may be zero. All tensors are contiguous."
    )
    mirrors = "vllm.model_executor.models.llama.LlamaMLP (gate_up_proj, SiluAndMul, down_proj), without tensor parallelism"
    level = "L2"
    category = "llm"
    architectures = ("llama", "mistral", "qwen2", "qwen3", "qwen3_next", "kimi_linear", "deepseek_v3", "smollm")
    signature = (
        Output("out", "T", "H"),
        Input("x", "T", "H"),
        Weight("gate_up_weight", "2*I", "H", doc="gate rows, then up rows"),
        Weight("down_weight", "H", "I"),
    )
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", compile=True),
        Baseline(name="flashinfer", file="flashinfer.py", devices=("cuda",), requires="flashinfer"),
    )
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"T": (1, 70)}, "cuda": {"T": (1, 5000)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"H": 328, "I": 1000}, {"H": 712, "I": 408}),
        "cuda": ({"H": 1152, "I": 4304}, {"H": 960, "I": 2560}, {"H": 2880, "I": 720}),
    }
    independent_rows = True  # no signs and no powers of two: nothing passes through the activation unchanged

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        tokens, width, inner = (workload.sizes[size] for size in ("T", "H", "I"))
        dtype = getattr(torch, workload.dtype)
        return {
            # No larger rows: their intermediates grow with the square, and production rounds those to 16 bits.
            "x": draw.vary_rows(draw.activation((tokens, width), dtype), 1.0, 1e-3),
            "gate_up_weight": draw.matrix((2 * inner, width), dtype, width, one_sign=True),
            "down_weight": draw.matrix((width, inner), dtype, inner),
        }

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        x, gate_up, down = (torch.as_tensor(args[name]).double() for name in ("x", "gate_up_weight", "down_weight"))
        gate, up = (x @ gate_up.t()).chunk(2, dim=-1)
        return {"out": (torch.nn.functional.silu(gate) * up) @ down.t()}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        tokens, width, inner = (workload.sizes[size] for size in ("T", "H", "I"))
        elements = 3 * width * inner + 2 * tokens * width
        return Cost(bytes=elements * getattr(torch, workload.dtype).itemsize, flops=6 * tokens * width * inner)


TASK = LlamaMlp()
