"""Decode attention over a paged key-value cache, with grouped query heads."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import msgspec
import torch

from ...rearrange import Rearrangement, Rows
from ...task import N1, Baseline, Cost, Gate, Input, Metadata, Output, Scalar, Task, Workload
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
        Metadata("kv_indptr", "B+1", doc="Start of each sequence in kv_indices."),
        Metadata("kv_indices", "C", doc="Pages of all sequences, one after another."),
        Metadata("last_page_len", "B", doc="Tokens in the last page of each sequence."),
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
        lengths = _lengths(workload, draw)
        counts = (lengths + page - 1) // page
        indptr = torch.zeros(batch + 1, dtype=torch.int32)
        indptr[1:] = counts.cumsum(0)
        indices = torch.zeros(workload.sizes["C"], dtype=torch.int32)
        used = int(counts.sum())
        indices[:used] = draw.permutation(pool)[:used]
        # Like any parameter the scale is not the obvious one, so that a kernel that derives it from d fails.
        factor = 1.0 if draw.regime is Regime.NORMAL else 0.8 + 0.4 * float(torch.rand((), generator=draw.host))
        return {
            "q": draw.vary_rows(draw.activation((batch, heads, width), dtype), 4.0, 1e-3),
            "k_cache": draw.activation((pool, page, kv_heads, width), dtype),
            "v_cache": draw.activation((pool, page, kv_heads, width), dtype),
            "kv_indptr": indptr.to(draw.device),
            "kv_indices": indices.to(draw.device),
            "last_page_len": (lengths - (counts - 1) * page).int().to(draw.device),
            "sm_scale": factor / math.sqrt(width),
        }

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """Sequences of equal length exchanged between sets, their places in the batch and their pages drawn anew.

        A sign common to a sequence's query and keys cancels, and one of its values goes through to the output.
        """
        return _dealt(workload.sizes, entries)

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        q, k_cache, v_cache = (_tensor(args, name) for name in ("q", "k_cache", "v_cache"))
        batch, heads, width = q.shape
        page, kv_heads = k_cache.shape[1:3]
        indptr, last = _tensor(args, "kv_indptr").tolist(), _tensor(args, "last_page_len").tolist()
        out = torch.zeros(q.shape, dtype=torch.float64, device=q.device)
        lse = torch.zeros(q.shape[:2], dtype=torch.float64, device=q.device)
        for b in range(batch):
            pages = _tensor(args, "kv_indices")[indptr[b] : indptr[b + 1]].long()
            length = (pages.numel() - 1) * page + last[b]
            keys, values = (cache[pages].flatten(0, 1)[:length].double().transpose(0, 1) for cache in (k_cache, v_cache))
            query = q[b].double().view(kv_heads, heads // kv_heads, width)
            scores = query @ keys.transpose(1, 2) * float(args["sm_scale"])
            out[b] = (scores.softmax(-1) @ values).view(heads, width)
            lse[b] = scores.logsumexp(-1).flatten() / math.log(2)
        return {"out": out, "lse": lse}

    def groups(self, args: Mapping[str, Value]) -> dict[str, dict[str, torch.Tensor]]:
        batch, heads = _tensor(args, "q").shape[:2]
        head = torch.arange(heads).repeat(batch)
        shared = heads // _tensor(args, "k_cache").shape[2]
        kinds = {"head": head, "key-value head": head // shared, "sequence": torch.arange(batch).repeat_interleave(heads)}
        return {"out": kinds, "lse": kinds}

    def unused(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        """Slots of the caches that hold no token of any sequence, and the rest of the page list."""
        cache, indices = _tensor(args, "k_cache"), _tensor(args, "kv_indices")
        indptr = _tensor(args, "kv_indptr").long()
        owned = torch.arange(len(indices), device=indices.device) < indptr[-1]
        slot = torch.arange(cache.shape[1], device=cache.device)
        free = torch.ones(cache.shape[:2], dtype=torch.bool, device=cache.device)
        free[indices[owned].long()] = False
        if len(indptr) > 1:
            free[indices[indptr[1:] - 1].long()] = slot >= _tensor(args, "last_page_len")[:, None]
        return {"k_cache": free[:, :, None, None], "v_cache": free[:, :, None, None], "kv_indices": ~owned}

    def perturbed(self, args: Mapping[str, Value], rng: random.Random) -> dict[str, dict[str, Value]]:
        """The pages in use are dealt out in reverse order."""
        indices, used = _tensor(args, "kv_indices").clone(), int(_tensor(args, "kv_indptr")[-1])
        if used < 2:
            return {}
        indices[:used] = indices[:used].flip(0)
        return {"the page table": {**args, "kv_indices": indices}}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        batch, page, heads, kv_heads, width = (workload.sizes[name] for name in ("B", "page", "q", "kv", "d"))
        pages = int(_tensor(args, "kv_indptr")[-1])
        tokens = (pages - batch) * page + int(_tensor(args, "last_page_len").sum())
        item = getattr(torch, workload.dtype).itemsize
        elements = 2 * tokens * kv_heads * width + 2 * batch * heads * width
        return Cost(bytes=elements * item + 4 * (batch * heads + pages + 2 * batch + 1), flops=4 * heads * width * tokens)


def _dealt(sizes: Mapping[str, int], entries: Entries) -> Rearrangement:
    """See `GqaDecode.rerandomise`. Below, s counts slots, b places in the batch, t places in the list of pages."""
    batch, pool, page = (sizes[name] for name in ("B", "P", "page"))
    starts, listed, last = (entries.stacks[name].long() for name in ("kv_indptr", "kv_indices", "last_page_len"))
    counts = starts.diff(dim=1)
    by_length = (counts * page + last).argsort(dim=1, stable=True)  # [sets, B]: the sets have the same lengths, in their own order
    ranks = torch.where(entries.kept[:, None], by_length.argsort(1)[entries.order], entries.permutations(batch))
    sets = entries.sets(batch).gather(1, ranks)  # [s, b]
    sequences = by_length[sets, ranks]
    indptr = torch.nn.functional.pad(counts[sets, sequences].cumsum(1), (1, 0))
    place = torch.arange(pool, device=sets.device).expand(entries.slots, pool).contiguous()  # [s, t]
    owner = torch.searchsorted(indptr[:, 1:].contiguous(), place, right=True).clamp_max(batch - 1)
    used = place < indptr[:, -1:]
    from_set = sets.gather(1, owner)
    entry = starts[from_set, sequences.gather(1, owner)] + place - indptr.gather(1, owner)
    source = torch.where(used, from_set * pool + listed[from_set, torch.where(used, entry, 0)], entries.whole() * pool)
    pages = torch.where(entries.kept[:, None], _spread(listed[entries.order], used), entries.permutations(pool))
    score_sign, value_sign = entries.signs(batch), entries.signs(batch)

    def of_pages(sign: torch.Tensor) -> Rows:
        """Physical page ``pages[s, t]`` gets page t of the list."""
        return Rows(source.scatter(1, pages, source), torch.ones_like(place, dtype=torch.float32).scatter(1, pages, sign.gather(1, owner)))

    query = sets * batch + sequences
    return Rearrangement(
        {
            "q": Rows(query, score_sign), "k_cache": of_pages(score_sign), "v_cache": of_pages(value_sign),
            "kv_indptr": indptr.int(), "kv_indices": torch.where(used, pages, 0).int(), "last_page_len": last[sets, sequences].int(),
        },
        {"out": Rows(query, value_sign), "lse": Rows(query)},
    )


def _spread(listed: torch.Tensor, used: torch.Tensor) -> torch.Tensor:
    """Lists of pages ``[s, t]``, completed to permutations by the pages that they do not hold."""
    taken = _taken(listed, used)
    free = taken.int().argsort(dim=1, stable=True)  # pages that no list holds come first
    rest = torch.arange(listed.shape[1], device=listed.device) - used.sum(1, keepdim=True)
    return torch.where(used, listed, free.gather(1, rest.clamp_min(0)))


def _taken(listed: torch.Tensor, used: torch.Tensor) -> torch.Tensor:
    """Whether a page is in use, ``[s, pages]``."""
    beyond = listed.shape[1]
    marks = torch.zeros(len(listed), beyond + 1, dtype=torch.bool, device=listed.device)
    return marks.scatter_(1, torch.where(used, listed, beyond), True)[:, :beyond]


def _lengths(workload: Workload, draw: Draw) -> torch.Tensor:
    """Sequence lengths (int64, on the host) whose pages fit the pool; in the `NORMAL` regime all have the median length."""
    batch, pool, page = (workload.sizes[name] for name in ("B", "P", "page"))
    params = workload.params
    if draw.regime is Regime.NORMAL:
        lengths = torch.full((batch,), int(params["median"]))
    else:
        lengths = draw.lengths(batch, params["median"], params["sigma"], int(params["low"]), int(params["high"]))
    if int(((lengths + page - 1) // page).sum()) > pool:
        # Rounding up to pages adds less than a page for each sequence.
        lengths = (lengths * ((pool - batch) * page / float(lengths.sum()))).long().clamp_min(1)
    return lengths


def _tensor(args: Mapping[str, Value], name: str) -> torch.Tensor:
    value = args[name]
    assert isinstance(value, torch.Tensor)
    return value


TASK = GqaDecode()
