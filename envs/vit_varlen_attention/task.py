"""Attention inside of each of several packed images: the attention of vision encoders, and of encoders of text."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from ...attention import attend, deal_rows, deal_sequences, packed_lengths, tensor
from ...rearrange import Rearrangement, Rows
from ...task import Baseline, Cost, Input, Metadata, Output, Scalar, Task, Workload
from ...types import Regime

if TYPE_CHECKING:
    from ...rearrange import Entries
    from ...recipes import Draw
    from ...task import Range, Value


class VitVarlenAttention(Task):
    """Every token attends to all tokens of its own sequence."""

    entry = "vit_varlen_attention"
    summary = "Attend inside of each of several sequences that lie one after another, every token to all of its sequence."
    semantics = (
        "Sequence s (an image, a frame, a window, a document) has the tokens from cu_seqlens[s] to cu_seqlens[s + 1] - 1; its length is "
        "between 1 and max_seqlen, which may be more than the longest has. cu_seqlens starts with 0 and ends with T. For token t of "
        "sequence s and head n: x[j] = dot(q[t, n], k[j, n]) / sqrt(d) over the tokens j of s, and out[t, n] = sum over j of "
        "softmax(x)[j] * v[j, n]. There is no mask inside of a sequence. S may be zero. Accumulate in float32 or better; weights may be "
        "rounded to the dtype of v before they are multiplied, and the result is rounded once. q, k and v are usually slices of qkv rows: "
        "the distance between their tokens may be larger than h * d, and the heads of a token are contiguous. out is contiguous."
    )
    mirrors = "flash_attn.flash_attn_varlen_func (not causal), torch.nn.attention.varlen.varlen_attn"
    level = "L1"
    category = "multimodal"
    architectures = ("qwen3_vl_moe", "qwen2_vl", "qwen2_5_omni", "siglip2", "dinov3", "v_jepa2", "bge_m3", "colbert_v2")
    signature = (
        Output("out", "T", "h", "d"),
        Input("q", "T", "h", "d", row_stride="row_stride"),
        Input("k", "T", "h", "d", row_stride="row_stride"),
        Input("v", "T", "h", "d", row_stride="row_stride"),
        Metadata("cu_seqlens", "S+1", doc="Start of each sequence."),
        Scalar("max_seqlen", "int", doc="No sequence is longer."),
    )
    baselines = (
        Baseline(name="eager", file="eager.py", fallback=("cuda",)),
        Baseline(name="varlen", file="varlen.py", devices=("cuda",)),
        Baseline(name="flashinfer", file="flashinfer.py", devices=("cuda",), requires="flashinfer"),
    )
    regimes = (Regime.REALISTIC, Regime.SKEWED, Regime.EMPTY)
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"S": (1, 10), "mean": (1, 40)}, "cuda": {"S": (1, 24), "mean": (1, 900)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"h": 12, "d": 64}, {"h": 16, "d": 88}, {"h": 6, "d": 40}),
        "cuda": ({"h": 12, "d": 64}, {"h": 16, "d": 88}, {"h": 32, "d": 128}, {"h": 6, "d": 40}),
    }
    batch = "S"

    def complete(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Tokens T of all sequences, ``mean`` of them in a sequence."""
        return {**sizes, "T": sizes["S"] * sizes["mean"]}

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        """Values of every argument.

        ``workload.params``: ``sigma``, of the logarithms of the lengths; ``spread``, the longest that is possible over the mean.
        """
        count, tokens, heads, width = (workload.sizes[name] for name in ("S", "T", "h", "d"))
        dtype, shape = getattr(torch, workload.dtype), (tokens, heads, width)
        most = int(workload.sizes["mean"] * workload.params["spread"])
        lengths = packed_lengths(draw, count, tokens, workload.params["sigma"], most)
        starts = torch.zeros(count + 1, dtype=torch.int32)
        starts[1:] = lengths.cumsum(0)
        return {
            "q": draw.vary_rows(draw.activation(shape, dtype), 3.0, 1e-2),
            "k": draw.vary_rows(draw.activation(shape, dtype), 2.0, 1e-2),
            "v": draw.vary_rows(draw.activation(shape, dtype), 4.0, 0.1),
            "cu_seqlens": starts.to(draw.device),
            "max_seqlen": most,
        }

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """Sequences of equal length exchanged between sets and given other places.

        A sign common to a sequence's queries and keys cancels; a sign and a power of two of its values goes through to the output.
        """
        count, tokens = workload.sizes["S"], workload.sizes["T"]
        starts = entries.stacks["cu_seqlens"].long()
        dealt = deal_sequences(entries, starts.diff(dim=1))
        rows = deal_rows(dealt, starts, tokens)
        source = rows.from_set * tokens + rows.from_row
        score, value = (f.gather(1, rows.owner) for f in (entries.signs(count), entries.signs(count) * entries.powers(count)))
        scores, values = Rows(source, score), Rows(source, value)
        return Rearrangement({"q": scores, "k": scores, "v": values, "cu_seqlens": rows.indptr.int()}, {"out": values})

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        q, k, v = (tensor(args, name) for name in ("q", "k", "v"))
        out, starts = torch.zeros(q.shape, dtype=torch.float64, device=q.device), tensor(args, "cu_seqlens").tolist()
        for first, end in itertools.pairwise(starts):
            out[first:end] = attend(q[first:end], k[first:end], v[first:end], q.shape[2] ** -0.5)[0]
        return {"out": out}

    def groups(self, args: Mapping[str, Value]) -> dict[str, dict[str, torch.Tensor]]:
        (tokens, heads, _), lengths = tensor(args, "q").shape, tensor(args, "cu_seqlens").diff().cpu()
        sequence = torch.arange(len(lengths)).repeat_interleave(lengths).repeat_interleave(heads)
        return {"out": {"head": torch.arange(heads).repeat(tokens), "sequence": sequence}}

    def perturbed(self, args: Mapping[str, Value], rng: random.Random) -> dict[str, dict[str, Value]]:
        """One token goes from the longest sequence to its neighbour."""
        starts = tensor(args, "cu_seqlens").clone()
        if len(starts) < 3 or int(starts.diff().max()) < 2:
            return {}
        longest = int(starts.diff().argmax())
        last = longest == len(starts) - 2
        starts[longest if last else longest + 1] += 1 if last else -1
        return {"a boundary": {**args, "cu_seqlens": starts}} if int(starts.diff().max()) <= int(args["max_seqlen"]) else {}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        tokens, heads, width = (workload.sizes[name] for name in ("T", "h", "d"))
        pairs = int(tensor(args, "cu_seqlens").long().diff().square().sum())
        item = getattr(torch, workload.dtype).itemsize
        return Cost(bytes=4 * tokens * heads * width * item + 4 * (workload.sizes["S"] + 1), flops=4 * heads * width * pairs)


TASK = VitVarlenAttention()
