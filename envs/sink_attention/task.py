"""Decode attention over a paged key-value cache with a sink for every head and a sliding window."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import msgspec
import torch

from ...attention import attend, cached_lengths, deal_pages, deal_sequences, page_tables, paged, pooled_lengths, tensor, unused_slots
from ...rearrange import Rearrangement, Rows
from ...task import Baseline, Cost, Input, Metadata, Output, Scalar, Task, Weight, Workload
from ...types import Regime

if TYPE_CHECKING:
    from ...rearrange import Entries
    from ...recipes import Draw
    from ...task import Range, Value


class SinkAttention(Task):
    """One query token per sequence against the last tokens of its cache; a learned score a head takes part of the weight."""

    entry = "sink_attention"
    summary = "Attend with one query token per sequence to the end of its paged key-value cache, with a sink in every softmax."
    semantics = (
        "Sequence b owns the pages kv_indices[kv_indptr[b] : kv_indptr[b + 1]], in order; all are full but the last, which holds "
        "last_page_len[b] tokens (1 to page). So its length is S = (pages - 1) * page + last_page_len[b], at least 1, and token s lies in "
        "k_cache[p, s % page] and v_cache[p, s % page] with p = kv_indices[kv_indptr[b] + s // page]. The query is that of token S - 1. It "
        "sees the tokens s >= S - 1 - window_left, which are window_left + 1 or all if there are fewer, and all of them if window_left is "
        "negative. Query head h attends with key-value head h // (q / kv): x[s] = sm_scale * dot(q[b, h], key of s), and out[b, h] = (sum "
        "over the tokens seen of exp(x[s]) * value of s) / (exp(sinks[h]) + sum over the tokens seen of exp(x[s])); sinks are not scaled. "
        "Scores and sinks may be too large for their exponentials. kv_indices has room for C pages; entries from kv_indptr[B] on have no "
        "meaning, nor have tokens that are not seen (memory before a window may hold anything, NaN too), the unused slots of last pages "
        "and unused pages of the pool. B may be zero. Accumulate in float32 or better and round out once. All tensors are contiguous."
    )
    mirrors = "flashinfer.BatchAttentionWithAttentionSinkWrapper.run (NHD layout)"
    level = "L1"
    category = "llm"
    architectures = ("gpt_oss",)
    signature = (
        Output("out", "B", "q", "d"),
        Input("q", "B", "q", "d"),
        Input("k_cache", "P", "page", "kv", "d"),
        Input("v_cache", "P", "page", "kv", "d"),
        Weight("sinks", "q", dtype="float32", doc="A score for each query head."),
        Metadata("kv_indptr", "B+1", doc="Start of each sequence in kv_indices."),
        Metadata("kv_indices", "C", doc="Pages of all sequences, one after another."),
        Metadata("last_page_len", "B", doc="Tokens in the last page of each sequence."),
        Scalar("window_left", "int", doc="Tokens before its own that a query sees; negative: all."),
        Scalar("sm_scale", "float", doc="Scale of the scores."),
    )
    baselines = (
        Baseline(name="eager", file="eager.py", fallback=("cuda",)),
        Baseline(name="flashinfer", file="flashinfer.py", devices=("cuda",), requires="flashinfer"),
        Baseline(name="flashinfer_fa3", file="flashinfer_fa3.py", devices=("cuda",), requires="flashinfer"),
    )
    regimes = (Regime.REALISTIC, Regime.SKEWED, Regime.EMPTY)
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"B": (1, 10)}, "cuda": {"B": (1, 80)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"q": 4, "kv": 4}, {"q": 14, "kv": 2, "d": 48}, {"q": 16, "kv": 1, "d": 80}),
        "cuda": ({"q": 16, "kv": 2}, {"q": 8, "kv": 1}, {"q": 64, "kv": 8, "d": 128}),
    }
    batch = "B"

    def complete(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Pages P of the pool and capacity C of the page list: ``pool`` pages per sequence, whatever the lengths."""
        pages = max(sizes["B"], 1) * sizes["pool"]
        return {**sizes, "P": pages, "C": pages}

    def hidden_workloads(self, device: str, rng: random.Random, count: int) -> list[Workload]:
        """As every task's, every other one with another window than the model's: none, or a short one."""
        windows, drawn = (0.0, float(rng.randint(1, 60)), -1.0), super().hidden_workloads(device, rng, count)
        turned = enumerate(drawn, rng.randrange(2))
        return [msgspec.structs.replace(w, params={**w.params, "window": windows[i // 2 % 3]}) if i % 2 else w for i, w in turned]

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        """Values of every argument. ``workload.params``: those of `pooled_lengths`; ``window``, the tokens before its own, or -1."""
        batch, pool, page, heads, kv_heads, width = (workload.sizes[name] for name in ("B", "P", "page", "q", "kv", "d"))
        dtype = getattr(torch, workload.dtype)
        tables = page_tables(workload, draw, pooled_lengths(workload, draw))
        # Like any parameter the scale is not the obvious one, so that a kernel that derives it from d fails.
        factor = 1.0 if draw.regime is Regime.NORMAL else 0.8 + 0.4 * float(torch.rand((), generator=draw.host))
        return {
            "q": draw.vary_rows(draw.activation((batch, heads, width), dtype), 4.0, 1e-3),
            "k_cache": draw.activation((pool, page, kv_heads, width), dtype),
            "v_cache": draw.activation((pool, page, kv_heads, width), dtype),
            # About the logarithm of the sum over a window: some heads hardly feel their sink, some give it nearly everything.
            "sinks": draw.weight(lambda: draw.normal((heads,), torch.float32, 2.0).add_(5)),
            **tables,
            "window_left": int(workload.params["window"]),
            "sm_scale": factor / math.sqrt(width),
        }

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """Sequences of equal length exchanged between sets, their places in the batch and their pages drawn anew.

        A sign common to a sequence's query and keys cancels; a sign and a power of two of its values goes through to the output.
        """
        batch, page = workload.sizes["B"], workload.sizes["page"]
        starts, last = (entries.stacks[name].long() for name in ("kv_indptr", "last_page_len"))
        dealt = deal_sequences(entries, starts.diff(dim=1) * page + last)
        score, value = entries.signs(batch), entries.signs(batch) * entries.powers(batch)
        query = dealt.sets * batch + dealt.sequences
        pages = deal_pages(workload.sizes, entries, dealt, score, value)
        return Rearrangement({"q": Rows(query, score), **pages}, {"out": Rows(query, value)})

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        q, sinks, scale, window = tensor(args, "q"), tensor(args, "sinks"), float(args["sm_scale"]), int(args["window_left"])
        out = torch.zeros(q.shape, dtype=torch.float64, device=q.device)
        for b, (keys, values) in enumerate(paged(args)):
            seen = slice(max(len(keys) - 1 - window, 0) if window >= 0 else 0, None)
            out[b : b + 1] = attend(q[b : b + 1], keys[seen], values[seen], scale, sinks=sinks)[0]
        return {"out": out}

    def groups(self, args: Mapping[str, Value]) -> dict[str, dict[str, torch.Tensor]]:
        batch, heads = tensor(args, "q").shape[:2]
        head = torch.arange(heads).repeat(batch)
        shared = heads // tensor(args, "k_cache").shape[2]
        return {"out": {"head": head, "key-value head": head // shared, "sequence": torch.arange(batch).repeat_interleave(heads)}}

    def unused(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        """Slots of the caches that hold no token that is seen, and the rest of the page list."""
        return unused_slots(args, int(args["window_left"]))

    def perturbed(self, args: Mapping[str, Value], rng: random.Random) -> dict[str, dict[str, Value]]:
        """The pages in use are dealt out in reverse order."""
        indices, used = tensor(args, "kv_indices").clone(), int(tensor(args, "kv_indptr")[-1])
        if used < 2:
            return {}
        indices[:used] = indices[:used].flip(0)
        return {"the page table": {**args, "kv_indices": indices}}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        batch, page, heads, kv_heads, width = (workload.sizes[name] for name in ("B", "page", "q", "kv", "d"))
        lengths, window = cached_lengths(args), int(args["window_left"])
        seen = int((lengths.clamp_max(window + 1) if window >= 0 else lengths).sum())
        elements = 2 * seen * kv_heads * width + 2 * batch * heads * width
        moved = elements * getattr(torch, workload.dtype).itemsize + 4 * (heads + seen // page + 2 * batch + 1)
        return Cost(bytes=moved, flops=4 * heads * width * seen)


TASK = SinkAttention()
