"""Prefill attention over a paged key-value cache, with grouped query heads and cached prefixes."""

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
from ...task import N1, Baseline, Cost, Gate, Input, Metadata, Output, Scalar, Task, Workload
from ...types import Regime

if TYPE_CHECKING:
    from ...rearrange import Entries
    from ...recipes import Draw
    from ...task import Range, Value


class GqaPrefill(Task):
    """The last tokens of every sequence against all of its cached keys and values."""

    entry = "gqa_prefill"
    summary = "Attend with the new tokens of several sequences to their paged key-value caches; return the results and the log-sum-exps."
    semantics = (
        "Sequence b owns the pages kv_indices[kv_indptr[b] : kv_indptr[b + 1]], in order; all are full but the last, which holds "
        "last_page_len[b] tokens (1 to page). So its length is m = (pages - 1) * page + last_page_len[b], and token s lies in k_cache[p, "
        "s % page] and v_cache[p, s % page] with p = kv_indices[kv_indptr[b] + s // page]. Its queries are the rows of q from "
        "qo_indptr[b] to qo_indptr[b + 1] - 1; there are n of them, 1 <= n <= m, and they belong to its last n tokens, whose keys and "
        "values are in the cache already: row i is that of token m - n + i. If causal, it sees the tokens s <= m - n + i, else all m. "
        "Query head h attends with key-value head h // (q / kv): x[s] = sm_scale * dot(row of q, key of s), out = sum of softmax(x)[s] * "
        "value of s, and lse = log2(sum of exp(x[s])), a base-2 logarithm, each over the tokens s that are seen. qo_indptr ends with T. "
        "kv_indices has room for C pages; entries from kv_indptr[B] on have no meaning, nor have the unused slots of last pages and "
        "unused pages of the pool. B may be zero. Accumulate in float32 or better; weights may be rounded to the dtype of v before they "
        "are multiplied, and the result is rounded once. All tensors are contiguous."
    )
    mirrors = "flashinfer.BatchPrefillWithPagedKVCacheWrapper.run (NHD layout, return_lse=True)"
    level = "L1"
    category = "llm"
    architectures = ("llama", "mixtral", "qwen3_moe", "qwen3_next", "qwen3_vl_moe", "qwen2_vl", "jamba", "gemma4", "cosyvoice3")
    signature = (
        Output("out", "T", "q", "d"),
        Output("lse", "T", "q", dtype="float32", doc="Base-2 log-sum-exp of the scaled scores."),
        Input("q", "T", "q", "d"),
        Metadata("qo_indptr", "B+1", doc="Start of each sequence's queries in q."),
        Input("k_cache", "P", "page", "kv", "d"),
        Input("v_cache", "P", "page", "kv", "d"),
        Metadata("kv_indptr", "B+1", doc="Start of each sequence in kv_indices."),
        Metadata("kv_indices", "C", doc="Pages of all sequences, one after another."),
        Metadata("last_page_len", "B", doc="Tokens in the last page of each sequence."),
        Scalar("causal", "bool", doc="Whether later tokens are hidden."),
        Scalar("sm_scale", "float", doc="Scale of the scores."),
    )
    numerics = msgspec.structs.replace(N1, name="N1, lse 1e-3", outputs={"lse": Gate(1e-3, 1e-3)})
    baselines = (
        Baseline(name="eager", file="eager.py", fallback=("cuda",)),
        Baseline(name="flashinfer", file="flashinfer.py", devices=("cuda",), requires="flashinfer"),
    )
    regimes = (Regime.REALISTIC, Regime.SKEWED, Regime.EMPTY)
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"B": (1, 10), "mean": (1, 24)}, "cuda": {"B": (1, 40), "mean": (1, 500)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"q": 4, "kv": 4, "d": 128}, {"q": 6, "kv": 2, "d": 64}, {"q": 7, "kv": 1, "d": 80}),
        "cuda": ({"q": 16, "kv": 8, "d": 128}, {"q": 28, "kv": 4, "d": 128}, {"q": 8, "kv": 8, "d": 64}),
    }
    batch = "B"

    def complete(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Queries T, ``mean`` of a sequence; pages P of the pool and capacity C of the page list.

        There is room for ``pool`` pages of cached prefix a sequence, for the queries' own tokens, and for what rounding up to pages costs.
        """
        pages = max(sizes["B"], 1) * (sizes["pool"] + sizes["mean"] // sizes["page"] + 2)
        return {**sizes, "T": sizes["B"] * sizes["mean"], "P": pages, "C": pages}

    def hidden_workloads(self, device: str, rng: random.Random, count: int) -> list[Workload]:
        """As every task's, with both masks in turn: a kernel that knows one must not pass by the luck of the draw."""
        drawn = super().hidden_workloads(device, rng, count)
        return [msgspec.structs.replace(w, params={**w.params, "causal": int(index % 3 != 1)}) for index, w in enumerate(drawn)]

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        """Values of every argument.

        ``workload.params``: ``sigma``, of the logarithms of the numbers of queries; ``prefix``, the median length of what is cached before
        them, of which a third of the sequences have nothing; ``causal``, 0 or 1.
        """
        batch, tokens, pool, page, heads, kv_heads, width = (workload.sizes[name] for name in ("B", "T", "P", "page", "q", "kv", "d"))
        params, dtype = workload.params, getattr(torch, workload.dtype)
        lengths = attention.packed_lengths(draw, batch, tokens, params["sigma"])
        starts = torch.zeros(batch + 1, dtype=torch.int32)
        starts[1:] = lengths.cumsum(0)
        tables = attention.page_tables(workload, draw, lengths + _prefixes(workload, draw, lengths))
        # Like any parameter the scale is not the obvious one, so that a kernel that derives it from d fails.
        factor = 1.0 if draw.regime is Regime.NORMAL else 0.8 + 0.4 * float(torch.rand((), generator=draw.host))
        return {
            "q": draw.vary_rows(draw.activation((tokens, heads, width), dtype), 4.0, 1e-3),
            "qo_indptr": starts.to(draw.device),
            "k_cache": draw.activation((pool, page, kv_heads, width), dtype),
            "v_cache": draw.activation((pool, page, kv_heads, width), dtype),
            **tables,
            "causal": bool(params.get("causal", 1)),
            "sm_scale": factor / math.sqrt(width),
        }

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """Sequences of equal lengths exchanged between sets, their places in the batch and their pages drawn anew.

        A sign common to a sequence's queries and keys cancels, and one of its values goes through to the output.
        """
        sizes = workload.sizes
        batch, tokens = sizes["B"], sizes["T"]
        queries, pages, last = (entries.stacks[name].long() for name in ("qo_indptr", "kv_indptr", "last_page_len"))
        cached = pages.diff(dim=1) * sizes["page"] + last
        dealt = attention.deal_sequences(entries, queries.diff(dim=1) * (sizes["P"] + 1) * sizes["page"] + cached)
        rows = attention.deal_rows(dealt, queries, tokens)
        source = rows.from_set * tokens + rows.from_row
        score_sign, value_sign = entries.signs(batch), entries.signs(batch)
        return Rearrangement(
            {
                "q": Rows(source, score_sign.gather(1, rows.owner)), "qo_indptr": rows.indptr.int(),
                **attention.deal_pages(sizes, entries, dealt, score_sign, value_sign),
            },
            {"out": Rows(source, value_sign.gather(1, rows.owner)), "lse": Rows(source)},
        )

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        q, starts = tensor(args, "q"), tensor(args, "qo_indptr").tolist()
        out = torch.zeros(q.shape, dtype=torch.float64, device=q.device)
        lse = torch.zeros(q.shape[:2], dtype=torch.float64, device=q.device)
        for b, (keys, values) in enumerate(attention.paged(args)):
            own = slice(starts[b], starts[b + 1])
            out[own], lse[own] = attention.attend(q[own], keys, values, float(args["sm_scale"]), causal=bool(args["causal"]))
        return {"out": out, "lse": lse / math.log(2)}

    def groups(self, args: Mapping[str, Value]) -> dict[str, dict[str, torch.Tensor]]:
        (tokens, heads, _), lengths = tensor(args, "q").shape, tensor(args, "qo_indptr").diff().cpu()
        head = torch.arange(heads).repeat(tokens)
        shared = heads // tensor(args, "k_cache").shape[2]
        sequence = torch.arange(len(lengths)).repeat_interleave(lengths).repeat_interleave(heads)
        kinds = {"head": head, "key-value head": head // shared, "sequence": sequence}
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
        batch, tokens, heads, kv_heads, width = (workload.sizes[name] for name in ("B", "T", "q", "kv", "d"))
        queries, cached = tensor(args, "qo_indptr").long().diff(), attention.cached_lengths(args)
        pairs = int((queries * cached - (queries * (queries - 1) // 2 if args["causal"] else 0)).sum())
        pages, item = int(tensor(args, "kv_indptr")[-1]), getattr(torch, workload.dtype).itemsize
        elements = 2 * int(cached.sum()) * kv_heads * width + 2 * tokens * heads * width
        return Cost(bytes=elements * item + 4 * (tokens * heads + pages + 3 * batch + 2), flops=4 * heads * width * pairs)


def _prefixes(workload: Workload, draw: Draw, queries: torch.Tensor) -> torch.Tensor:
    """Cached tokens before the queries of every sequence (int64, on the host).

    The multiset of both together is that of all entries of a ring: prefixes go with the ranks of the numbers of queries.
    """
    batch, pool, page, median = len(queries), workload.sizes["pool"], workload.sizes["page"], workload.params["prefix"]
    if draw.regime is Regime.NORMAL:
        return torch.full((batch,), int(median))
    drawn = torch.randn(batch, generator=draw.shared).mul_(0.8).exp_().mul_(median).long()
    drawn *= torch.rand(batch, generator=draw.shared) > 1 / 3
    drawn = (drawn * min(1.0, batch * pool * page / max(float(drawn.sum()), 1.0))).long()
    return drawn[queries.argsort(stable=True).argsort()]


TASK = GqaPrefill()
