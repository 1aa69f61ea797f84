"""Merging of two partial attention results, over a prefix and a suffix of the keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from ...rearrange import Rearrangement, Rows
from ...task import Baseline, Cost, Input, Output, Task, Workload
from ...types import Regime

if TYPE_CHECKING:
    from ...rearrange import Entries
    from ...recipes import Draw
    from ...task import Range, Value

NAMES = ("prefix_output", "suffix_output", "prefix_lse", "suffix_lse")


class MergeStates(Task):
    """Two attention outputs, weighted by the exponentials of their log-sum-exps."""

    entry = "merge_attn_states"
    summary = "Merge attention over a prefix and over a suffix of the keys into attention over both, by their log-sum-exps."
    semantics = (
        "With a = prefix_lse[h, t] and b = suffix_lse[h, t], natural logarithms: output[t, h, e] = (exp(a) * prefix_output[t, h, e] + "
        "exp(b) * suffix_output[t, h, e]) / (exp(a) + exp(b)) and output_lse[h, t] = log(exp(a) + exp(b)). a and b may be too large for "
        "their exponentials. One of them may be -inf, never both: that part had no keys, and its output, which is finite, counts for "
        "nothing. The log-sum-exps lie head by head, the outputs token by token. Compute in float32 or better, round once. All tensors are "
        "contiguous; output and output_lse are the arguments that are written."
    )
    mirrors = "vllm._custom_ops.merge_attn_states, flashinfer.cascade.merge_state"
    level = "L1"
    category = "llm"
    architectures = ("llama", "qwen3_moe", "qwen3_next", "deepseek_v3", "kimi_linear", "mixtral", "gpt_oss")
    signature = (
        Output("output", "T", "q", "d"),
        Input("prefix_output", "T", "q", "d"),
        Input("prefix_lse", "q", "T", dtype="float32"),
        Input("suffix_output", "T", "q", "d"),
        Input("suffix_lse", "q", "T", dtype="float32"),
        Output("output_lse", "q", "T", dtype="float32"),
    )
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", compile=True),
        Baseline(name="flashinfer", file="flashinfer.py", devices=("cuda",), requires="flashinfer"),
    )
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"T": (1, 100)}, "cuda": {"T": (1, 3000)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"q": 14, "d": 96}, {"q": 7, "d": 80}, {"q": 9, "d": 160}),
        "cuda": ({"q": 64, "d": 64}, {"q": 7, "d": 96}, {"q": 32, "d": 80}),
    }

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        tokens, heads, width = (workload.sizes[name] for name in ("T", "q", "d"))
        dtype = getattr(torch, workload.dtype)
        prefix, suffix = (draw.normal((heads, tokens), torch.float32, 2.0) for _ in range(2))
        if draw.regime is not Regime.NORMAL:
            scale = draw.normal((heads, tokens), torch.float32, 50.0)
            empty = torch.rand((heads, tokens), generator=draw.generator, device=draw.device)
            prefix = (prefix + scale).masked_fill_(empty < 0.1, -torch.inf)
            suffix = (suffix + scale).masked_fill_(empty > 0.9, -torch.inf)
        return {
            "prefix_output": draw.vary_rows(draw.activation((tokens, heads, width), dtype), 4.0, 0.1),
            "prefix_lse": prefix,
            "suffix_output": draw.vary_rows(draw.activation((tokens, heads, width), dtype), 4.0, 0.1),
            "suffix_lse": suffix,
        }

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """The heads of all tokens dealt out anew, both outputs of each times a sign and a power of two."""
        tokens, heads = workload.sizes["T"], workload.sizes["q"]
        index, factor = entries.rows(tokens * heads), entries.signs(tokens * heads) * entries.powers(tokens * heads)
        sets, place = index // (tokens * heads) * (tokens * heads), index % (tokens * heads)
        by_head = (sets + place % heads * tokens + place // heads).view(-1, tokens, heads).transpose(1, 2).flatten(1)
        scaled, lse = Rows(index, factor), Rows(by_head)
        return Rearrangement(
            {"prefix_output": scaled, "suffix_output": scaled, "prefix_lse": lse, "suffix_lse": lse},
            {"output": scaled, "output_lse": lse},
        )

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        prefix, suffix, a, b = (torch.as_tensor(args[name]).double() for name in NAMES)
        merged = torch.logaddexp(a, b)
        left, right = ((part - merged).exp().T[:, :, None] for part in (a, b))
        return {"output": left * prefix + right * suffix, "output_lse": merged}

    def groups(self, args: Mapping[str, Value]) -> dict[str, dict[str, torch.Tensor]]:
        tokens, heads, _ = torch.as_tensor(args["prefix_output"]).shape
        return {"output": {"head": torch.arange(heads).repeat(tokens)}, "output_lse": {"head": torch.arange(heads)}}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        rows, width = workload.sizes["T"] * workload.sizes["q"], workload.sizes["d"]
        return Cost(bytes=3 * rows * (width * getattr(torch, workload.dtype).itemsize + 4), flops=3 * rows * width)


TASK = MergeStates()
