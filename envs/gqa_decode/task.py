"""Decode attention over a paged key-value cache, with grouped query heads."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import msgspec
import torch

from ... import attention
from ...attention import tensor
from ...rearrange import Rearrangement, Rows
from ...task import N1, Baseline, Cost, Gate, Input, Output, Scalar, Task, Workload
from ...types import Regime

if TYPE_CHECKING:
    from ...rearrange import Entries
    from ...recipes import Draw
    from ...task import Range, Value


class GqaDecode(Task):
    """One query token per sequence against the sequence's cached keys and values."""

    entry = "gqa_decode"
    summary = "Attend with one query token per sequence to its paged key-value cache; return the result and the log-sum-exp."
    semantics = (
        "Sequence b owns the pages kv_indices[kv_indptr[b] : kv_indptr[b + 1]], in order; all are full but the last, which holds "
        "last_page_len[b] tokens (1 to page). So its length is S = (pages - 1) * page + last_page_len[b], at least 1, and token s "
        "lies in k_cache[p, s % page] and v_cache[p, s % page] with p = kv_indices[kv_indptr[b] + s // page]. Query head h attends "
        "with key-value head h // (q / kv): x[s] = sm_scale * dot(q[b, h], key of s), out[b, h] = sum over s of softmax(x)[s] * "
        "value of s, lse[b, h] = log2(sum over s of exp(x[s])), a base-2 logarithm. kv_indices has room for C pages; entries from "
        "kv_indptr[B] on have no meaning, nor have the unused slots of last pages and unused pages of the pool. B may be zero. "
        "Accumulate in float32 or better and round out once. All tensors are contiguous."
    )
    mirrors = "flashinfer.BatchDecodeWithPagedKVCacheWrapper.run (NHD layout, return_lse=True)"
    level = "L1"
    category = "llm"
    architectures = ("llama", "mixtral", "qwen3_moe", "qwen3_next", "qwen3_vl_moe", "qwen2_vl", "jamba", "gemma4", "cosyvoice3")
    signature = (
        Output("out", "B", "q", "d"),
        Output("lse", "B", "q", dtype="float32", doc="Base-2 log-sum-exp of the scaled scores."),
        Input("q", "B", "q", "d"),
        Input("k_cache", "P", "page", "kv", "d"),
        Input("v_cache", "P", "page", "kv", "d"),
        *attention.PAGE_TABLES,
        Scalar("sm_scale", "float", doc="Scale of the scores."),
    )
    numerics = msgspec.structs.replace(N1, name="N1, lse 1e-3", outputs={"lse": Gate(1e-3, 1e-3)})
    baselines = (
        Baseline(name="eager", file="eager.py", fallback=("cuda",)),
        Baseline(name="flashinfer", file="flashinfer.py", devices=("cuda",), requires="flashinfer"),
        Baseline(name="flashinfer_tensor_cores", file="flashinfer_tensor_cores.py", devices=("cuda",), requires="flashinfer"),
    )
    regimes = (Regime.REALISTIC, Regime.SKEWED, Regime.EMPTY)
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"B": (1, 10)}, "cuda": {"B": (1, 80)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"q": 4, "kv": 4}, {"q": 8, "kv": 4, "d": 64}, {"q": 16, "kv": 4}),
        "cuda": ({"q": 16, "kv": 8, "d": 128}, {"q": 32, "kv": 4, "d": 128}, {"q": 8, "kv": 8, "d": 64}),
    }
    batch = "B"

    def complete(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Pages P of the pool and capacity C of the page list: ``pool`` pages per sequence, whatever the lengths."""
        pages = max(sizes["B"], 1) * sizes["pool"]
        return {**sizes, "P": pages, "C": pages}

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        batch, pool, page, heads, kv_heads, width = (workload.sizes[name] for name in ("B", "P", "page", "q", "kv", "d"))
        dtype = getattr(torch, workload.dtype)
        tables = attention.page_tables(workload, draw, attention.pooled_lengths(workload, draw))
        # Like any parameter the scale is not the obvious one, so that a kernel that derives it from d fails.
        factor = 1.0 if draw.regime is Regime.NORMAL else 0.8 + 0.4 * float(torch.rand((), generator=draw.host))
        return {
            "q": draw.vary_rows(draw.activation((batch, heads, width), dtype), 4.0, 1e-3),
            "k_cache": draw.activation((pool, page, kv_heads, width), dtype),
            "v_cache": draw.activation((pool, page, kv_heads, width), dtype),
            **tables,
            "sm_scale": factor / math.sqrt(width),
        }

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """Sequences of equal length exchanged between sets, their places in the batch and their pages drawn anew.

        A sign common to a sequence's query and keys cancels, and one of its values goes through to the output.
        """
        batch, page = workload.sizes["B"], workload.sizes["page"]
        starts, last = (entries.stacks[name].long() for name in ("kv_indptr", "last_page_len"))
        dealt = attention.deal_sequences(entries, starts.diff(dim=1) * page + last)
        score_sign, value_sign = entries.signs(batch), entries.signs(batch)
        query = dealt.sets * batch + dealt.sequences
        pages = attention.deal_pages(workload.sizes, entries, dealt, score_sign, value_sign)
        return Rearrangement({"q": Rows(query, score_sign), **pages}, {"out": Rows(query, value_sign), "lse": Rows(query)})

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        q = tensor(args, "q")
        out = torch.zeros(q.shape, dtype=torch.float64, device=q.device)
        lse = torch.zeros(q.shape[:2], dtype=torch.float64, device=q.device)
        for b, (keys, values) in enumerate(attention.paged(args)):
            out[b : b + 1], lse[b : b + 1] = attention.attend(q[b : b + 1], keys, values, float(args["sm_scale"]))
        return {"out": out, "lse": lse / math.log(2)}

    def groups(self, args: Mapping[str, Value]) -> dict[str, dict[str, torch.Tensor]]:
        batch, heads = tensor(args, "q").shape[:2]
        head = torch.arange(heads).repeat(batch)
        shared = heads // tensor(args, "k_cache").shape[2]
        kinds = {"head": head, "key-value head": head // shared, "sequence": torch.arange(batch).repeat_interleave(heads)}
        return {"out": kinds, "lse": kinds}

    def unused(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        """Slots of the caches that hold no token of any sequence, and the rest of the page list."""
        return attention.unused_slots(args)

    def perturbed(self, args: Mapping[str, Value], rng: random.Random) -> dict[str, dict[str, Value]]:
        """The pages in use are dealt out in reverse order."""
        indices, used = tensor(args, "kv_indices").clone(), int(tensor(args, "kv_indptr")[-1])
        if used < 2:
            return {}
        indices[:used] = indices[:used].flip(0)
        return {"the page table": {**args, "kv_indices": indices}}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        batch, heads, kv_heads, width = (workload.sizes[name] for name in ("B", "q", "kv", "d"))
        pages, tokens = int(tensor(args, "kv_indptr")[-1]), int(attention.cached_lengths(args).sum())
        item = getattr(torch, workload.dtype).itemsize
        elements = 2 * tokens * kv_heads * width + 2 * batch * heads * width
        return Cost(bytes=elements * item + 4 * (batch * heads + pages + 2 * batch + 1), flops=4 * heads * width * tokens)


TASK = GqaDecode()
