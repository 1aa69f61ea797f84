"""Activation without a gate: what stands between the two projections of an encoder's MLP, or behind a convolution."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

import msgspec
import torch

from ...task import N1, Baseline, Cost, Input, Output, Scalar, Task, Workload
from ...types import Regime

if TYPE_CHECKING:
    from ...recipes import Draw
    from ...task import Range, Value

KINDS: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (
    torch.relu,
    torch.nn.functional.gelu,
    lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    lambda x: x * (1.702 * x).sigmoid(),
    torch.nn.functional.silu,
    lambda x: x.relu().square(),
    torch.nn.functional.hardswish,
    torch.sigmoid,
)
"""The functions by their number, as `semantics` states them."""
QUICK, SQUARE = 3, 5
TAILS = 8
"""One row in so many lies in the tail."""


class Activation(Task):
    """One of eight functions, element by element."""

    entry = "activation"
    summary = "Apply the activation function that `kind` names to every element."
    semantics = (
        "out[t, i] = f(input[t, i]). f(x) is, by kind: 0 (ReLU) max(x, 0); 1 (GELU) x / 2 * (1 + erf(x / sqrt(2))); 2 (tanh GELU) "
        "x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))); 3 (quick GELU) x / (1 + exp(-1.702 * x)); 4 (SiLU) x / (1 + exp(-x)); "
        "5 (squared ReLU) max(x, 0)^2; 6 (hard swish) x * min(max(x + 3, 0), 6) / 6; 7 (sigmoid) 1 / (1 + exp(-x)). Values may be in the "
        "thousands, and whole rows may lie where GELU is far smaller than x and must be right all the same (x from -2 to -6). Compute in "
        "float32 or better and round once, at the end. `input` may have a row stride larger than I (a slice of a wider projection); `out` "
        "is contiguous. T may be zero."
    )
    mirrors = "torch.nn.functional.relu, gelu, silu, hardswish; vllm torch.ops._C.gelu_new, gelu_quick and its ReLUSquaredActivation"
    level = "L1"
    category = "vision"
    architectures = (
        "bert", "xlm_roberta", "bge_m3", "colbert_v2", "whisper", "siglip2", "dinov3", "v_jepa2", "flux", "sam3", "rtdetr_v2",
        "mobilenetv4", "efficientnetv2", "yolov10", "nemotron_h",
    )
    signature = (
        Output("out", "T", "I"),
        Input("input", "T", "I", row_stride="row_stride"),
        Scalar("kind", "int", doc="Which function, from 0 to 7."),
    )
    # In the tail 1 + erf cancels: a last bit of it is 2e-5 of a hundredth of what is usual.
    numerics = msgspec.structs.replace(N1, name="N1, float32 RMS 5e-5", rms_floor={**N1.rms_floor, "float32": 5e-5})
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", compile=True),
    )
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"T": (1, 300)}, "cuda": {"T": (1, 6000)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"I": 72}, {"I": 184}, {"I": 3420}), "cuda": ({"I": 72}, {"I": 184}, {"I": 3420}, {"I": 200})
    }
    independent_rows = True

    def hidden_workloads(self, device: str, rng: random.Random, count: int) -> list[Workload]:
        """As every task's, of kinds in any order: a shape is not one model's alone."""
        drawn = super().hidden_workloads(device, rng, count)
        kinds = rng.sample(range(len(KINDS)), len(KINDS))
        return [msgspec.structs.replace(w, params={"kind": kinds[index % len(kinds)]}) for index, w in enumerate(drawn)]

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        """Values of every argument; ``workload.params``: ``kind``."""
        shape, kind = (workload.sizes["T"], workload.sizes["I"]), int(workload.params["kind"])
        dtype = getattr(torch, workload.dtype)
        # float16 holds the squares of numbers up to 255 only.
        values = draw.vary_rows(draw.activation(shape, dtype), 4.0 if kind == SQUARE else 100.0, 1e-3)
        if draw.regime is not Regime.NORMAL and kind != QUICK:  # models round its 1.702 * x to 16 bits, which shows there
            # Elsewhere the forms of GELU differ by less than 16 bits show.
            tails = values[int(torch.randint(TAILS, (1,), generator=draw.host)) :: TAILS]
            tails.copy_(draw.normal((len(tails), shape[1]), dtype).abs_().add_(2.25).neg_())
        return {"input": values, "kind": kind}

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        return {"out": KINDS[int(args["kind"])](torch.as_tensor(args["input"]).double())}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        elements = workload.sizes["T"] * workload.sizes["I"]
        return Cost(bytes=2 * elements * getattr(torch, workload.dtype).itemsize, flops=elements)


TASK = Activation()
