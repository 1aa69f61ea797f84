"""Block-scaled fp8 matrix product: every dense projection of DeepSeek-style quantised models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from ...quantise import GROUP, dequantise, quantised_activation, quantised_matrix
from ...rearrange import Rearrangement, Rows
from ...task import Baseline, Cost, Input, Output, Task, Weight, Workload

if TYPE_CHECKING:
    from ...rearrange import Entries
    from ...recipes import Draw
    from ...task import Range, Value


class Fp8BlockGemm(Task):
    """A linear layer whose operands are eight-bit floats with a scale for each block."""

    entry = "fp8_block_gemm"
    summary = "Multiply fp8 activations, scaled by rows of 128, by an fp8 weight, scaled by blocks of 128 x 128."
    semantics = (
        "d[m, n] = sum over k of a[m, k] * sa[m, k // 128] * w[n, k] * sw[n // 128, k // 128]. The scales change along k, so that the "
        "products of each 128 values of k are scaled before they are added. Accumulate in float32 or better (fp8 tensor cores within "
        "the 128 are precise enough) and round once, at the end. K is a multiple of 128; N need not be, and then the last row of sw "
        "belongs to fewer rows of w. No code is NaN. All tensors are contiguous."
    )
    mirrors = "deep_gemm.fp8_gemm_nt((a, sa), (w, sw), d), flashinfer.gemm.fp8_blockscale_gemm_sm90, with row-major scales"
    level = "L1"
    category = "llm"
    architectures = ("deepseek_v3", "qwen3_moe", "qwen3_vl_moe", "kimi_linear", "glm_moe")
    signature = (
        Input("a", "M", "K", dtype="float8_e4m3fn"),
        Input("sa", "M", f"K//{GROUP}", dtype="float32", doc="scale of each 128 elements of a row of a"),
        Weight("w", "N", "K", dtype="float8_e4m3fn"),
        Weight("sw", f"(N+{GROUP - 1})//{GROUP}", f"K//{GROUP}", dtype="float32", doc="scale of each 128 x 128 block of w"),
        Output("d", "M", "N"),
    )
    baselines = (
        Baseline(name="eager", file="eager.py", fallback=("cuda",)),
        Baseline(name="scaled_mm", file="scaled_mm.py", devices=("cuda",)),
        Baseline(name="flashinfer", file="flashinfer.py", devices=("cuda",), requires="flashinfer"),
    )
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"M": (1, 80)}, "cuda": {"M": (1, 6000)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"N": 328, "K": 640}, {"N": 1000, "K": 384}),
        "cuda": ({"N": 576, "K": 7168}, {"N": 2112, "K": 7168}, {"N": 1000, "K": 1408}),
    }
    batch = "M"

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        tokens, width, depth = (workload.sizes[size] for size in ("M", "N", "K"))
        codes, scales = quantised_activation(draw, (tokens, depth))
        weight, weight_scales = quantised_matrix(draw, (width, depth))
        return {"a": codes, "sa": scales, "w": weight, "sw": weight_scales}

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """Rows dealt out anew, and the scales of each times a power of two, which goes through."""
        tokens = workload.sizes["M"]
        index = entries.rows(tokens)
        scaled = Rows(index, entries.powers(tokens))
        return Rearrangement({"a": Rows(index), "sa": scaled}, {"d": scaled})

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        a, sa, w, sw = (torch.as_tensor(args[name]) for name in ("a", "sa", "w", "sw"))
        return {"d": dequantise(a, sa, 1, GROUP) @ dequantise(w, sw, GROUP, GROUP).t()}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        tokens, width, depth = (workload.sizes[size] for size in ("M", "N", "K"))
        codes = tokens * depth + width * depth
        scales = (tokens + -(-width // GROUP)) * (depth // GROUP)
        moved = codes + 4 * scales + tokens * width * getattr(torch, workload.dtype).itemsize
        # The judge knows peaks by the workload's dtype. That of fp8 is twice as high: a product and its addition count as one operation.
        return Cost(bytes=moved, flops=tokens * width * depth)


TASK = Fp8BlockGemm()
