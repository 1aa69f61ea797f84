"""All-reduce, residual addition and RMSNorm in one pass: what follows every row-parallel projection of a tensor-parallel decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from ...ranked import Comm, RankedTask, join, tensor
from ...rearrange import Rearrangement, Rows
from ...task import Baseline, Cost, Input, Output, Scalar, Weight, Workload
from ...types import Regime

if TYPE_CHECKING:
    from ...rearrange import Entries
    from ...recipes import Draw
    from ...task import Range, Value

RESIDUAL_SCALE = 10.0


class AllreduceAddRmsNorm(RankedTask):
    """Sums the ranks' inputs, adds the residual, normalises; every rank gets all of it."""

    entry = "allreduce_add_rms_norm"
    summary = "Sum a tensor over all ranks, add the residual, and RMS-normalise the sum: on every rank."
    semantics = (
        "With s[t, h] = residual[t, h] + the sum over all ranks of their input[t, h], in float32: residual_out[t, h] = s[t, h], rounded "
        "to the tensor's dtype, and norm_out[t, h] = s[t, h] / sqrt(mean over h of s[t, h]^2 + epsilon) * weight[h]. Residual, weight and "
        "epsilon are the same on every rank, and so are the outputs. The norm is taken of the unrounded sum; accumulate in float32 "
        "or better and round once, at the end. All tensors are contiguous."
    )
    mirrors = "flashinfer.comm.allreduce_fusion, vllm.distributed.tensor_model_parallel_all_reduce"
    level = "L2"
    category = "llm"
    architectures = ("llama", "qwen3", "gpt_oss")
    ranks = 2
    workspace: ClassVar[Mapping[str, int]] = {"cpu": 256 << 10, "cuda": 64 << 20}  # on a CPU most inputs have to go piece by piece
    signature = (
        Output("norm_out", "T", "H"),
        Output("residual_out", "T", "H"),
        Input("input", "T", "H", doc="this rank's summand"),
        Input("residual", "T", "H"),
        Weight("weight", "H"),
        Scalar("epsilon", "float"),
        Comm("comm"),
    )
    baselines = (
        Baseline(name="all_reduce", file="all_reduce.py"),
        Baseline(name="two_shot", file="two_shot.py", devices=("cuda",)),
        Baseline(name="symmetric", file="symmetric.py", devices=("cuda",)),
    )
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"T": (1, 300)}, "cuda": {"T": (1, 1500)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"H": 1536}, {"H": 2880}), "cuda": ({"H": 1536}, {"H": 2880}, {"H": 5120})
    }

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        shape, dtype = (workload.sizes["T"], workload.sizes["H"]), getattr(torch, workload.dtype)
        residual = draw.vary_rows(draw.activation(shape, dtype, RESIDUAL_SCALE), 100.0, 1e-3)
        weight = draw.parameter(shape[1:], dtype)
        summands = [draw.vary_rows(draw.activation(shape, dtype), 100.0, 1e-3) for _ in range(self.ranks)]
        if draw.regime is not Regime.NORMAL:
            # Padding slots of a CUDA graph hold rows this small; in them alone can the output show a wrong epsilon.
            for rows in (residual, *summands):
                rows[15::16] *= 1e-3
        same: dict[str, Value] = {"residual": residual, "weight": weight, "epsilon": 1e-5}
        return join([{"input": rows, **same} for rows in summands])

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """Rows dealt out anew, each with either sign, the same in all tensors: it goes through sums and norm."""
        tokens = workload.sizes["T"]
        rows = Rows(entries.rows(tokens), entries.signs(tokens))
        moved = {arg.name for arg in self.signature if len(arg.shape) == 2}
        outputs = {arg.name for arg in self.outputs}
        return Rearrangement(dict.fromkeys(moved - outputs, rows), dict.fromkeys(outputs, rows))

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        summed = sum((tensor(own, "input").double() for own in self.split(args)), torch.zeros((), dtype=torch.float64))
        outputs = []
        for own in self.split(args):
            total = tensor(own, "residual").double() + summed
            scale = (total.square().mean(-1, keepdim=True) + own["epsilon"]).rsqrt()
            outputs.append({"norm_out": total * scale * tensor(own, "weight").double(), "residual_out": total})
        return join(outputs)

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        elements, size = workload.sizes["T"] * workload.sizes["H"], getattr(torch, workload.dtype).itemsize
        link = 2 * (self.ranks - 1) * elements * size // self.ranks  # of a reduce-scatter and an all-gather
        return Cost(bytes=4 * elements * size + workload.sizes["H"] * size, flops=(5 + self.ranks) * elements, link=link)


TASK = AllreduceAddRmsNorm()
