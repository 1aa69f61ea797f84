"""All-gather of the rows, then a linear layer: how sequence parallelism enters a column-parallel projection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from ...ranked import Comm, RankedTask, at_rank, join, stacked, tensor
from ...rearrange import Rearrangement, Rows
from ...task import Baseline, Cost, Input, Output, Weight, Workload

if TYPE_CHECKING:
    from ...rearrange import Entries
    from ...recipes import Draw
    from ...task import Range, Value

RANKS = 2


class AllgatherGemm(RankedTask):
    """Every rank multiplies the rows of all ranks by its own columns' weights."""

    entry = "allgather_gemm"
    summary = "Gather the rows of all ranks and multiply them by this rank's part of a linear layer's weight."
    semantics = (
        "With all[m, k] = the ranks' inputs one below the other in the order of the ranks, so that row r * T + t is row t of rank r's "
        "input: out[m, n] = sum over k of all[m, k] * weight[n, k]. Every rank has T rows, and a weight of its own. Accumulate in float32 "
        "or better (for float32 inputs TF32 is not precise enough) and round once, at the end. All tensors are contiguous."
    )
    mirrors = "torch.ops.symm_mem.fused_all_gather_matmul, as TorchTitan's and vLLM's sequence parallelism call it"
    level = "L2"
    category = "llm"
    architectures = ("llama", "qwen3_moe")
    ranks = RANKS
    workspace: ClassVar[Mapping[str, int]] = {"cpu": 256 << 10, "cuda": 64 << 20}  # on a CPU most inputs have to go piece by piece
    signature = (
        Output("out", f"{RANKS}*T", "N", doc="rows of all ranks, this rank's columns"),
        Input("input", "T", "K", doc="this rank's rows"),
        Weight("weight", "N", "K", doc="this rank's columns"),
        Comm("comm"),
    )
    baselines = (
        Baseline(name="all_gather", file="all_gather.py"),
        Baseline(name="fused", file="fused.py", devices=("cuda",)),
        Baseline(name="pipelined", file="pipelined.py", devices=("cuda",)),
    )
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"T": (1, 150)}, "cuda": {"T": (1, 1500)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"N": 500, "K": 704}, {"N": 320, "K": 1440}),
        "cuda": ({"N": 2560, "K": 2880}, {"N": 1408, "K": 2048}, {"N": 2560, "K": 5120}),
    }

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        tokens, width, depth = (workload.sizes[size] for size in ("T", "N", "K"))
        dtype = getattr(torch, workload.dtype)
        rows = draw.vary_rows(draw.activation((self.ranks * tokens, depth), dtype), 4.0, 1e-3)
        return join([
            {"input": rows[rank * tokens : (rank + 1) * tokens], "weight": draw.matrix((width, depth), dtype, depth, one_sign=True)}
            for rank in range(self.ranks)
        ])

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """Rows dealt out anew, those of each rank by themselves, times signs and powers of two: a row of every output is one of them."""
        tokens, ranks = workload.sizes["T"], range(self.ranks)
        dealt = [Rows(entries.rows(tokens), entries.signs(tokens) * entries.powers(tokens)) for _ in ranks]
        both = stacked(dealt, tokens)
        return Rearrangement({at_rank("input", rank): dealt[rank] for rank in ranks}, {at_rank("out", rank): both for rank in ranks})

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        parts = self.split(args)
        rows = torch.cat([tensor(own, "input").double() for own in parts])
        return join([{"out": rows @ tensor(own, "weight").double().t()} for own in parts])

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        tokens, width, depth = (workload.sizes[size] for size in ("T", "N", "K"))
        elements = tokens * depth + width * depth + self.ranks * tokens * width
        size, link = getattr(torch, workload.dtype).itemsize, (self.ranks - 1) * tokens * depth
        return Cost(bytes=elements * size, flops=2 * self.ranks * tokens * width * depth, link=link * size)


TASK = AllgatherGemm()
