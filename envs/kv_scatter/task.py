"""Scatter of new keys and values into a paged cache."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import msgspec
import torch

from ...rearrange import Rearrangement, Rows
from ...task import N1, Baseline, Cost, Gate, InOut, Input, Metadata, Scalar, Task, Workload
from ...types import Regime

if TYPE_CHECKING:
    from ...rearrange import Entries
    from ...recipes import Draw
    from ...task import Range, Value


class KvScatter(Task):
    """Copies of every token's key and value heads, to the slot of the cache that the token was given."""

    entry = "reshape_and_cache_flash"
    summary = "Copy every token's key and value to its slot of a paged key-value cache, and leave the rest of the cache as it is."
    semantics = (
        "Slot s of the cache is place o = s % page of page p = s // page. For every token t with s = slot_mapping[t] >= 0 and every head "
        "h: key_cache[p, o, h] = key[t, h] and value_cache[p, o, h] = value[t, h], or, where hnd is true, key_cache[p, h, o] and "
        "value_cache[p, h, o]: then a page holds its slots head by head, and the caches have the shape [P, kv, page, d] instead of "
        "[P, page, kv, d]. A token with slot -1 (padding of the batch) is skipped. All other slots are distinct, in any order. Values are "
        "copied bit for bit, and every other element of the caches keeps what it holds. Key and value are usually slices of wider qkv "
        "rows: their row stride may be larger than kv * d. The caches are contiguous; their dtype is that of key and value (kv_cache_dtype "
        "\"auto\", no scales)."
    )
    mirrors = "vllm._custom_ops.reshape_and_cache_flash, flashinfer.page.append_paged_kv_cache"
    level = "L1"
    category = "llm"
    architectures = ("llama", "mixtral", "qwen3_moe", "qwen3_next", "qwen3_vl_moe", "qwen2_vl", "gpt_oss", "jamba", "gemma4", "cosyvoice3")
    signature = (
        Input("key", "T", "kv", "d", row_stride="row_stride"),
        Input("value", "T", "kv", "d", row_stride="row_stride"),
        InOut("key_cache", "P", "outer", "inner", "d"),
        InOut("value_cache", "P", "outer", "inner", "d"),
        Metadata("slot_mapping", "T", dtype="int64", doc="slot of every token; -1: none"),
        Scalar("hnd", "bool", doc="caches are [P, kv, page, d], else [P, page, kv, d]"),
    )
    numerics = msgspec.structs.replace(
        N1, name="N0, bit-exact", gates=dict.fromkeys(N1.gates, Gate(0.0, 0.0)), rms_floor=dict.fromkeys(N1.rms_floor, 0.0)
    )
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", compile=True),
        Baseline(name="flashinfer", file="flashinfer.py", devices=("cuda",), requires="flashinfer"),
    )
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"T": (1, 150)}, "cuda": {"T": (1, 6000)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": (
            {"kv": 3, "d": 96, "page": 32, "hnd": 1}, {"kv": 5, "d": 80, "page": 32, "hnd": 0}, {"kv": 1, "d": 64, "page": 8, "hnd": 1},
        ),
        "cuda": (
            {"kv": 3, "d": 96, "page": 32, "hnd": 1}, {"kv": 20, "d": 80, "page": 32, "hnd": 0}, {"kv": 4, "d": 64, "page": 64, "hnd": 1},
        ),
    }

    def complete(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Pages P of the pool, enough for every run of ``run`` tokens wherever it begins in its first page; dimensions of a page."""
        pages = -(-max(sizes["T"], 1) // sizes["run"]) * ((sizes["run"] + sizes["page"] - 2) // sizes["page"] + 1)
        outer, inner = (sizes["kv"], sizes["page"]) if sizes["hnd"] else (sizes["page"], sizes["kv"])
        return {**sizes, "P": pages, "outer": outer, "inner": inner}

    def hidden_workloads(self, device: str, rng: random.Random, count: int) -> list[Workload]:
        """As every task's, with tokens without a slot anywhere in the batch instead of at its end."""
        return [msgspec.structs.replace(w, params={"skip": 0.2}) for w in super().hidden_workloads(device, rng, count)]

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        """Values of every argument.

        ``workload.params``: ``tail``, the share of tokens at the end of the batch that have no slot; ``skip``, that of tokens anywhere.
        """
        sizes, dtype = workload.sizes, getattr(torch, workload.dtype)
        tokens, heads = (sizes["T"], sizes["kv"], sizes["d"]), (sizes["P"], sizes["outer"], sizes["inner"], sizes["d"])
        slots = _slots(sizes, draw)
        if draw.regime is not Regime.NORMAL:
            slots[sizes["T"] - int(sizes["T"] * workload.params.get("tail", 0.0)) :] = -1
            slots[torch.rand(sizes["T"], generator=draw.shared) < workload.params.get("skip", 0.0)] = -1
        return {
            "key": draw.activation(tokens, dtype),
            "value": draw.activation(tokens, dtype),
            "key_cache": draw.activation(heads, dtype),
            "value_cache": draw.activation(heads, dtype),
            "slot_mapping": slots.to(draw.device),
            "hnd": bool(sizes["hnd"]),
        }

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """Tokens and pages of every set in another order, each page and what is written to it times a sign and a power of two."""
        tokens, page, pages = (workload.sizes[name] for name in ("T", "page", "P"))
        source, places = entries.permutations(tokens), entries.permutations(pages)  # new page i is the old places[i]
        old = entries.stacks["slot_mapping"][entries.order].gather(1, source)
        new_page = places.argsort(1).gather(1, old.clamp_min(0) // page)
        keys, values = (entries.signs(pages) * entries.powers(pages) for _ in range(2))
        whole = entries.whole()
        key_cache, value_cache = Rows(whole * pages + places, keys), Rows(whole * pages + places, values)
        key, value = (Rows(whole * tokens + source, factor.gather(1, new_page)) for factor in (keys, values))
        slots = torch.where(old < 0, -1, new_page * page + old % page)
        arguments: dict[str, Rows | torch.Tensor] = {
            "key": key, "value": value, "key_cache": key_cache, "value_cache": value_cache, "slot_mapping": slots,
        }
        return Rearrangement(arguments, {"key_cache": key_cache, "value_cache": value_cache})

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        slots, result = torch.as_tensor(args["slot_mapping"]), {}
        live = (slots >= 0).nonzero().flatten()
        for name in ("key", "value"):
            new, cache = torch.as_tensor(args[name]), torch.as_tensor(args[f"{name}_cache"]).to(torch.float64, copy=True)
            heads, width = new.shape[1:]
            page, head = cache.shape[1] * cache.shape[2] // heads, torch.arange(heads, device=new.device)
            slot = slots[live, None]
            row = (slot // page * heads + head) * page + slot % page if args["hnd"] else slot * heads + head
            cache.view(-1, width)[row.flatten()] = new[live].double().view(-1, width)
            result[f"{name}_cache"] = cache
        return result

    def unused(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        """Keys and values of tokens without a slot."""
        skipped = (torch.as_tensor(args["slot_mapping"]) < 0)[:, None, None]
        return {"key": skipped, "value": skipped}

    def perturbed(self, args: Mapping[str, Value], rng: random.Random) -> dict[str, dict[str, Value]]:
        """Two tokens change their slots."""
        slots = torch.as_tensor(args["slot_mapping"]).clone()
        live = (slots >= 0).nonzero().flatten().tolist()
        if len(live) < 2:
            return {}
        pair = rng.sample(live, 2)
        slots[pair] = slots[pair[::-1]]
        return {"the slots of two tokens": {**args, "slot_mapping": slots}}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        tokens, heads, width = (workload.sizes[name] for name in ("T", "kv", "d"))
        moved = int((torch.as_tensor(args["slot_mapping"]) >= 0).sum()) * heads * width * getattr(torch, workload.dtype).itemsize
        return Cost(bytes=4 * moved + 8 * tokens, flops=1)


def _slots(sizes: Mapping[str, int], draw: Draw) -> torch.Tensor:
    """Slots of tokens (int64, on the host) that come in runs of ``run``: each begins anywhere in its first page and owns its pages."""
    tokens, run, page = sizes["T"], sizes["run"], sizes["page"]
    pages = draw.permutation(sizes["P"]).view(-(-max(tokens, 1) // run), -1)
    token = torch.arange(tokens)
    start = torch.randint(page, (len(pages),), generator=draw.host)
    sequence = torch.randperm(len(pages), generator=draw.host)[token // run]
    place = start[sequence] + token % run
    return pages[sequence, place // page] * page + place % page


TASK = KvScatter()
