"""Statistics of the values that an op sees: what shapes do not say and a kernel's speed depends on.

They are small and hold no value of the input itself: histograms by rank, lengths, and summaries.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

_LENGTHS = ("seq_lens", "seqlens", "context_lens", "seq_lengths", "sequence_lengths", "cache_seqlens")
_OFFSETS = ("cu_seqlens", "indptr", "query_start_loc")
_PAGES = ("block_table", "page_table", "kv_indices", "slot_mapping")
_ROUTES = ("topk_ids", "top_k_index", "selected_experts", "router_indices", "expert_ids")
_HOT = 8
"""One expert in so many counts as hot."""
_MOST_TOKENS = 512
"""Tokens for which the routing of a given skew is simulated: more do not change the share of the hot experts."""
_STEP, _MOST_SKEW = 0.05, 2.0


def is_real(tensor: torch.Tensor) -> bool:
    """Whether a tensor has values: it is neither a meta nor a fake one."""
    return tensor.device.type != "meta" and type(tensor) in (torch.Tensor, torch.nn.Parameter)


def kind_of(name: str) -> str:
    """What an integer argument of that name holds: ``lengths``, ``offsets``, ``pages``, ``routing``, or nothing that is known."""
    lowered = name.lower()
    for kind, words in (("routing", _ROUTES), ("offsets", _OFFSETS), ("pages", _PAGES), ("lengths", _LENGTHS)):
        if any(word in lowered for word in words):
            return kind
    return ""


def summary(tensor: torch.Tensor) -> dict[str, float]:
    """Of floating-point values: standard deviation, largest magnitude, and the share of outliers (20 times the median magnitude)."""
    values = tensor.detach().float().flatten()
    if not values.numel():
        return {}
    size = values.abs()
    outliers = (size > 20 * size.median()).float().mean()
    return {"std": round(float(values.std(correction=0)), 6), "largest": float(size.max()), "outliers": round(float(outliers), 6)}


def lengths(values: Sequence[int]) -> dict[str, list[float]]:
    """Lengths as they are: few numbers, one for each sequence."""
    return {"lengths": [float(value) for value in values]}


def pages(tensor: torch.Tensor) -> dict[str, float]:
    """Of a page table or slot mapping: entries in use (not negative), distinct ones, and the share that follows its predecessor."""
    used = tensor.detach().flatten().long()
    used = used[used >= 0]
    follows = float((used[1:] == used[:-1] + 1).float().mean()) if used.numel() > 1 else 0.0
    return {"entries": float(used.numel()), "distinct": float(used.unique().numel()), "adjacent": round(follows, 4)}  # type: ignore[no-untyped-call]


def routing(ids: torch.Tensor, experts: int) -> list[int]:
    """Rows of each expert in one call, hottest first (int64 ids ``[T, k]``)."""
    counts = ids.detach().flatten().long().bincount(minlength=experts)
    return sorted(counts.tolist(), reverse=True)


def hot_share(histogram: Sequence[int]) -> float:
    """Share of the rows at the hottest eighth of the experts."""
    hot = sum(sorted(histogram, reverse=True)[: max(len(histogram) // _HOT, 1)])
    return hot / max(sum(histogram), 1)


def fit_zipf(share: float, tokens: int, experts: int, top_k: int) -> float:
    """The Zipf exponent of a routing whose hot experts get that share of the rows.

    A few tokens crowd somewhere even where routing is uniform. So routings of every exponent are drawn for as many tokens (Gumbel
    top-k, as the tasks draw theirs) and the nearest one is taken.

    Args:
        share: As `hot_share` says, averaged over calls.
        tokens: Of a call.
        experts: E.
        top_k: Distinct experts of each token.
    """
    generator = torch.Generator().manual_seed(0)
    tokens = min(max(tokens, 1), _MOST_TOKENS)
    repeats = max(4, _MOST_TOKENS // tokens)
    noise = torch.rand(repeats, tokens, experts, generator=generator).clamp_(1e-9, 1 - 1e-7)
    gumbel = -(-noise.log()).log()
    order = torch.arange(1, experts + 1).log()

    def expected(exponent: float) -> float:
        ids = (gumbel - exponent * order).topk(top_k, dim=-1).indices
        return sum(hot_share(routing(call, experts)) for call in ids) / repeats

    candidates = [round(number * _STEP, 2) for number in range(round(_MOST_SKEW / _STEP) + 1)]
    low, high = 0, len(candidates) - 1
    while high - low > 1:  # the share grows with the exponent
        middle = (low + high) // 2
        low, high = (middle, high) if expected(candidates[middle]) <= share else (low, middle)
    return min((candidates[low], candidates[high]), key=lambda exponent: abs(expected(exponent) - share))
