"""A linear layer split along its depth, then a reduce-scatter of the rows: how a row-parallel projection ends in sequence parallelism."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import msgspec
import torch

from ...ranked import Comm, RankedTask, at_rank, join, stacked, tensor
from ...rearrange import Rearrangement, Rows
from ...task import N1, Baseline, Cost, Gate, Input, Output, Weight, Workload

if TYPE_CHECKING:
    from ...rearrange import Entries
    from ...recipes import Draw
    from ...task import Range, Value

RANKS = 2
_ROUNDED_PARTS = Gate(4e-2, 1e-2)
"""Of the smoke check: both parts may be rounded to 8 bits and be as large as 5 where their sum is next to nothing (2 * 5 / 2^8)."""


class GemmReduceScatter(RankedTask):
    """Every rank multiplies its part of the depth; the products are summed over the ranks, and each gets its share of the rows."""

    entry = "gemm_reduce_scatter"
    summary = "Multiply this rank's part of the depth for all rows, sum over all ranks, and give each rank its share of the rows."
    semantics = (
        "On rank r: out[t, n] = sum over all ranks q and over k of input_q[r * T + t, k] * weight_q[n, k], where input_q and weight_q are "
        "rank q's. Every rank gets T rows of the sum, in the order of the ranks. Accumulate in float32 or better (for float32 inputs TF32 "
        "is not precise enough). A rank's product, summed over its own k, may be rounded to the tensors' dtype once before it goes to "
        "another rank; the sum over the ranks is taken in float32 and rounded once, at the end. All tensors are contiguous."
    )
    mirrors = "torch.ops.symm_mem.fused_matmul_reduce_scatter, as TorchTitan's and vLLM's sequence parallelism call it"
    level = "L2"
    category = "llm"
    architectures = ("llama", "qwen3_moe")
    ranks = RANKS
    numerics = msgspec.structs.replace(N1, smoke={**N1.smoke, "bfloat16": _ROUNDED_PARTS})
    workspace: ClassVar[Mapping[str, int]] = {"cpu": 256 << 10, "cuda": 64 << 20}  # on a CPU most inputs have to go piece by piece
    signature = (
        Output("out", "T", "N", doc="this rank's rows of the sum"),
        Input("input", f"{RANKS}*T", "K", doc="rows of all ranks, this rank's part of the depth"),
        Weight("weight", "N", "K", doc="this rank's part of the depth"),
        Comm("comm"),
    )
    baselines = (
        Baseline(name="reduce_scatter", file="reduce_scatter.py"),
        Baseline(name="all_to_all", file="all_to_all.py"),
        Baseline(name="fused", file="fused.py", devices=("cuda",)),
    )
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"T": (1, 150)}, "cuda": {"T": (1, 1500)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"N": 500, "K": 704}, {"N": 320, "K": 1440}),
        "cuda": ({"N": 2880, "K": 2048}, {"N": 2048, "K": 1408}, {"N": 5120, "K": 1536}),
    }

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        tokens, width, depth = (workload.sizes[size] for size in ("T", "N", "K"))
        dtype, whole = getattr(torch, workload.dtype), self.ranks * depth
        rows = draw.vary_rows(draw.activation((self.ranks * tokens, whole), dtype), 4.0, 1e-3)
        return join([
            {
                "input": rows[:, rank * depth : (rank + 1) * depth].contiguous(),
                "weight": draw.matrix((width, depth), dtype, whole, one_sign=True),
            }
            for rank in range(self.ranks)
        ])

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """Rows dealt out anew among those of one rank's output, times signs and powers of two, the same in every rank's input."""
        tokens, ranks = workload.sizes["T"], range(self.ranks)
        dealt = [Rows(entries.rows(tokens), entries.signs(tokens) * entries.powers(tokens)) for _ in ranks]
        whole = stacked(dealt, tokens)
        return Rearrangement({at_rank("input", rank): whole for rank in ranks}, {at_rank("out", rank): dealt[rank] for rank in ranks})

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        products = [tensor(own, "input").double() @ tensor(own, "weight").double().t() for own in self.split(args)]
        total = torch.stack(products).sum(0)
        tokens = len(total) // self.ranks
        return join([{"out": total[rank * tokens : (rank + 1) * tokens]} for rank in range(self.ranks)])

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        tokens, width, depth = (workload.sizes[size] for size in ("T", "N", "K"))
        elements = self.ranks * tokens * depth + width * depth + tokens * width
        size, link = getattr(torch, workload.dtype).itemsize, (self.ranks - 1) * tokens * width
        return Cost(bytes=elements * size, flops=2 * self.ranks * tokens * width * depth, link=link * size)


TASK = GemmReduceScatter()
