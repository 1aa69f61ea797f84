"""Decode attention of multi-head latent attention: every head attends to one latent vector a token, over a paged cache."""

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

SCALE = 192**-0.5 * (0.1 * math.log(40) + 1) ** 2
"""DeepSeek-V3's: of heads of 128 + 64 channels before the absorption, times the correction of its longer context."""


class MlaDecode(Task):
    """One query token per sequence, whose heads share one key and one value a token, the value being part of the key."""

    entry = "mla_decode"
    summary = "Attend with one query token per sequence to its paged cache of latent vectors; return the result and the log-sum-exp."
    semantics = (
        "Sequence b owns the pages kv_indices[kv_indptr[b] : kv_indptr[b + 1]], in order; all are full but the last, which holds "
        "last_page_len[b] tokens (1 to page). So its length is S = (pages - 1) * page + last_page_len[b], at least 1, and token s has the "
        "row kv_cache[p, s % page] with p = kv_indices[kv_indptr[b] + s // page]: c channels of its latent vector, then r channels of its "
        "rotated key. All h heads attend to these same rows: x[s] = sm_scale * (dot(q_nope[b, n], the first c channels of row s) + "
        "dot(q_pe[b, n], its last r channels)), out[b, n] = sum over s of softmax(x)[s] * the first c channels of row s, and lse[b, n] = "
        "log2(sum over s of exp(x[s])), a base-2 logarithm. kv_indices has room for C pages; entries from kv_indptr[B] on have no "
        "meaning, nor have the unused slots of last pages and unused pages of the pool: they may hold anything, NaN too. B may be zero. "
        "Accumulate in float32 or better; the softmax's numerators may be rounded to the dtype of the cache before they are multiplied. "
        "Round out once. All tensors are contiguous."
    )
    mirrors = "flashinfer.mla.BatchMLAPagedAttentionWrapper.run (return_lse=True) on one cache, FlashMLA flash_mla_with_kvcache"
    level = "L2"
    category = "llm"
    architectures = ("deepseek_v3", "kimi_k2", "kimi_linear", "deepseek_v2")
    signature = (
        Output("out", "B", "h", "c"),
        Output("lse", "B", "h", dtype="float32", doc="Base-2 log-sum-exp of the scaled scores."),
        Input("q_nope", "B", "h", "c", doc="Queries behind the absorbed up-projection of the keys."),
        Input("q_pe", "B", "h", "r", doc="Their rotated part."),
        Input("kv_cache", "P", "page", "c+r", doc="Latent vector, then rotated key, of a token."),
        *attention.PAGE_TABLES,
        Scalar("sm_scale", "float", doc="Scale of the scores."),
    )
    numerics = msgspec.structs.replace(N1, name="N1, lse 1e-3", outputs={"lse": Gate(1e-3, 1e-3)})
    baselines = (
        Baseline(name="eager", file="eager.py", fallback=("cuda",)),
        Baseline(name="flashinfer", file="flashinfer.py", devices=("cuda",), requires="flashinfer"),
        Baseline(name="flashinfer_fa2", file="flashinfer_fa2.py", devices=("cuda",), requires="flashinfer"),
    )
    regimes = (Regime.REALISTIC, Regime.SKEWED, Regime.EMPTY)
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"B": (1, 8)}, "cuda": {"B": (1, 72)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"h": 5, "c": 256, "r": 32}, {"h": 20}, {"h": 7, "c": 200, "r": 24}),
        "cuda": ({"h": 5}, {"h": 20}, {"h": 40}),
    }
    batch = "B"

    def complete(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Pages P of the pool and capacity C of the page list: ``pool`` pages per sequence, whatever the lengths."""
        pages = max(sizes["B"], 1) * sizes["pool"]
        return {**sizes, "P": pages, "C": pages}

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        batch, pool, page, heads, latent, rotated = (workload.sizes[name] for name in ("B", "P", "page", "h", "c", "r"))
        dtype = getattr(torch, workload.dtype)
        # Like any parameter the scale is not the obvious one, so that a kernel that knows it fails.
        factor = 1.0 if draw.regime is Regime.NORMAL else 0.8 + 0.4 * float(torch.rand((), generator=draw.host))
        return {
            # Scores are spread as those of trained heads are, and the rotated part has a third of their variance.
            "q_nope": draw.vary_rows(draw.activation((batch, heads, latent), dtype, 0.3), 4.0, 1e-3),
            "q_pe": draw.vary_rows(draw.activation((batch, heads, rotated), dtype, 0.6), 4.0, 1e-3),
            "kv_cache": draw.activation((pool, page, latent + rotated), dtype),
            **attention.page_tables(workload, draw, attention.pooled_lengths(workload, draw)),
            "sm_scale": factor * SCALE,
        }

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """Sequences of equal length exchanged between sets, their places in the batch and their pages drawn anew.

        A factor of a sequence's cache goes through to the output; its queries get the inverse, so that scores stay.
        """
        batch, page = workload.sizes["B"], workload.sizes["page"]
        starts, last = (entries.stacks[name].long() for name in ("kv_indptr", "last_page_len"))
        dealt = attention.deal_sequences(entries, starts.diff(dim=1) * page + last)
        factor = entries.signs(batch) * entries.powers(batch)
        query = dealt.sets * batch + dealt.sequences
        pages = attention.deal_pages(workload.sizes, entries, dealt, factor, factor)
        asked = Rows(query, 1 / factor)
        tables = {name: pages[name] for name in ("kv_indptr", "kv_indices", "last_page_len")}
        moved: dict[str, Rows | torch.Tensor] = {"q_nope": asked, "q_pe": asked, "kv_cache": pages["k_cache"], **tables}
        return Rearrangement(moved, {"out": Rows(query, factor), "lse": Rows(query)})

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        q = torch.cat((tensor(args, "q_nope"), tensor(args, "q_pe")), -1)
        out = torch.zeros(tensor(args, "q_nope").shape, dtype=torch.float64, device=q.device)
        lse = torch.zeros(q.shape[:2], dtype=torch.float64, device=q.device)
        for b, (keys, values) in enumerate(attention.paged(_as_pair(args))):
            out[b : b + 1], lse[b : b + 1] = attention.attend(q[b : b + 1], keys, values, float(args["sm_scale"]))
        return {"out": out, "lse": lse / math.log(2)}

    def groups(self, args: Mapping[str, Value]) -> dict[str, dict[str, torch.Tensor]]:
        batch, heads = tensor(args, "q_nope").shape[:2]
        kinds = {"head": torch.arange(heads).repeat(batch), "sequence": torch.arange(batch).repeat_interleave(heads)}
        return {"out": kinds, "lse": kinds}

    def unused(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        """Slots of the cache that hold no token of any sequence, and the rest of the page list."""
        masks = attention.unused_slots(_as_pair(args))
        return {"kv_cache": masks["k_cache"][..., 0], "kv_indices": masks["kv_indices"]}

    def perturbed(self, args: Mapping[str, Value], rng: random.Random) -> dict[str, dict[str, Value]]:
        """The pages in use are dealt out in reverse order."""
        indices, used = tensor(args, "kv_indices").clone(), int(tensor(args, "kv_indptr")[-1])
        if used < 2:
            return {}
        indices[:used] = indices[:used].flip(0)
        return {"the page table": {**args, "kv_indices": indices}}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        batch, heads, latent, rotated = (workload.sizes[name] for name in ("B", "h", "c", "r"))
        pages, tokens = int(tensor(args, "kv_indptr")[-1]), int(attention.cached_lengths(_as_pair(args)).sum())
        elements = tokens * (latent + rotated) + batch * heads * (2 * latent + rotated)
        moved = elements * getattr(torch, workload.dtype).itemsize + 4 * (batch * heads + pages + 2 * batch + 1)
        return Cost(bytes=moved, flops=2 * heads * (2 * latent + rotated) * tokens)


def _as_pair(args: Mapping[str, Value]) -> dict[str, Value]:
    """The arguments with a cache of keys and one of values of a single head, views of the one cache."""
    cache = tensor(args, "kv_cache")[:, :, None]
    return {**args, "k_cache": cache, "v_cache": cache[..., : tensor(args, "q_nope").shape[2]]}


TASK = MlaDecode()
