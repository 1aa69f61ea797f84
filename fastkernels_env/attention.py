"""What attention tasks share: the float64 oracle over one sequence, ragged lengths, paged caches, and how timed sequences change.

A paged cache is ``k_cache`` and ``v_cache`` ``[P, page, kv, d]`` with the tables ``kv_indptr``, ``kv_indices`` and ``last_page_len`` of
FlashInfer; a task that has one calls its arguments so. Its sizes ``B``, ``C``, ``P`` and ``page`` have these names too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch

from .rearrange import Entries, Rows
from .signature import Metadata
from .types import Regime

if TYPE_CHECKING:
    from .recipes import Draw
    from .task import Value, Workload

PAGE_TABLES = (
    Metadata("kv_indptr", "B+1", doc="Start of each sequence in kv_indices."),
    Metadata("kv_indices", "C", doc="Pages of all sequences, one after another."),
    Metadata("last_page_len", "B", doc="Tokens in the last page of each sequence."),
)
"""For `Task.signature`: the tables of ``B`` sequences on a paged cache, with room for ``C`` pages."""
_SCORES = 1 << 26
"""Scores that the oracle holds at once."""


def tensor(args: Mapping[str, Value], name: str) -> torch.Tensor:
    """An argument that is a tensor."""
    value = args[name]
    assert isinstance(value, torch.Tensor)
    return value


# -- the oracle ----------------------------------------------------------------------------------------------------------------


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, *, causal: bool = False, window_left: int = -1,
    sinks: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of one sequence in float64: the result ``[n, q, d]`` and the natural log-sum-exp of the scores ``[n, q]``.

    Args:
        q: Queries ``[n, q, d]``. With a mask they are the last n of the m positions.
        k: Keys ``[m, kv, d]``; query head h attends with key-value head ``h // (q / kv)``.
        v: Values ``[m, kv, d]``.
        scale: Of the scores.
        causal: A query sees no later position than its own.
        window_left: Not negative: a query sees its own position and this many before it, and no later one.
        sinks: Scores ``[q]`` of one more key for every head, whose value is zero.
    """
    (count, heads, _), (length, kv_heads, width) = q.shape, v.shape
    keys, values = (x.double().transpose(0, 1) for x in (k, v))
    out = torch.zeros(count, heads, width, dtype=torch.float64, device=q.device)
    lse = torch.zeros(count, heads, dtype=torch.float64, device=q.device)
    position = torch.arange(length, device=q.device)
    step = max(_SCORES // max(heads * length, 1), 1)
    for first in range(0, count, step):
        query = torch.unflatten(q[first : first + step].double(), 1, (kv_heads, -1)).permute(1, 2, 0, 3)  # [kv, group, rows, d]
        _, group, rows, _ = query.shape
        scores = torch.unflatten((query.flatten(1, 2) @ keys.transpose(1, 2)).mul_(scale), 1, (group, rows))
        own = torch.arange(first, first + rows, device=q.device)[:, None] + length - count
        if causal or window_left >= 0:
            scores.masked_fill_(position > own, -math.inf)
        if window_left >= 0:
            scores.masked_fill_(position < own - window_left, -math.inf)
        total = scores.logsumexp(-1)
        if sinks is not None:
            total = torch.logaddexp(total, sinks.double().view(kv_heads, group, 1))
        weights = scores.sub_(total[..., None]).exp_().flatten(1, 2)
        out[first : first + rows] = torch.unflatten(weights @ values, 1, (group, rows)).permute(2, 0, 1, 3).flatten(1, 2)
        lse[first : first + rows] = total.permute(2, 0, 1).flatten(1)
    return out, lse


def paged(args: Mapping[str, Value]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values ``[length, kv, d]`` of one sequence after another, gathered from its pages."""
    caches = [tensor(args, name) for name in ("k_cache", "v_cache")]
    indptr, indices = tensor(args, "kv_indptr").tolist(), tensor(args, "kv_indices")
    for b, length in enumerate(cached_lengths(args).tolist()):
        pages = indices[indptr[b] : indptr[b + 1]].long()
        keys, values = (cache[pages].flatten(0, 1)[:length] for cache in caches)
        yield keys, values


def cached_lengths(args: Mapping[str, Value]) -> torch.Tensor:
    """Tokens of every sequence (int64)."""
    counts = tensor(args, "kv_indptr").long().diff()
    return (counts - 1) * tensor(args, "k_cache").shape[1] + tensor(args, "last_page_len").long()


# -- inputs --------------------------------------------------------------------------------------------------------------------


def packed_lengths(draw: Draw, count: int, total: int, sigma: float, most: int | None = None) -> torch.Tensor:
    """`count` lengths of at least 1 that add up to `total` (int64, on the host), log-normal but for that, none above `most`.

    The multiset comes from ``draw.shared``. In the `NORMAL` regime they are as equal as can be; in the `SKEWED` regime one sequence has
    seven eighths of the tokens, or `most`.
    """
    if count == 0:
        return torch.zeros(0, dtype=torch.int64)
    shares = torch.randn(count, generator=draw.shared, dtype=torch.float64).mul_(0 if draw.regime is Regime.NORMAL else sigma).exp_()
    if draw.regime is Regime.SKEWED:
        shares[0] = max(7 * float(shares[1:].sum()), 1.0)
    ends = (shares.cumsum(0) * ((total - count) / float(shares.sum()))).round().long()
    lengths = torch.cat((torch.zeros(1, dtype=torch.int64), ends)).diff() + 1
    if most is not None:  # what is above goes to the first sequences that have room
        excess, lengths = int((lengths - most).clamp_min(0).sum()), lengths.clamp_max(most)
        room = most - lengths
        lengths = lengths + (excess - room.cumsum(0) + room).clamp_min(0).minimum(room)
    return lengths[draw.permutation(count)]


def pooled_lengths(workload: Workload, draw: Draw) -> torch.Tensor:
    """Lengths of ``B`` sequences (int64, on the host) whose pages fit the pool; in the `NORMAL` regime all have the median length.

    ``workload.params``: ``median``, ``sigma``, ``low``, ``high`` of the log-normal distribution.
    """
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


def page_tables(workload: Workload, draw: Draw, lengths: torch.Tensor) -> dict[str, Value]:
    """Tables ``kv_indptr``, ``kv_indices`` and ``last_page_len`` of sequences of these lengths, over a shuffled pool."""
    pool, page = workload.sizes["P"], workload.sizes["page"]
    counts = (lengths + page - 1) // page
    indptr = torch.zeros(len(lengths) + 1, dtype=torch.int32)
    indptr[1:] = counts.cumsum(0)
    indices = torch.zeros(workload.sizes["C"], dtype=torch.int32)
    used = int(counts.sum())
    indices[:used] = draw.permutation(pool)[:used]
    last = (lengths - (counts - 1) * page).int()
    return {"kv_indptr": indptr.to(draw.device), "kv_indices": indices.to(draw.device), "last_page_len": last.to(draw.device)}


def unused_slots(args: Mapping[str, Value], window_left: int = -1) -> dict[str, torch.Tensor]:
    """For `Task.unused`: slots of the caches that hold no token of any sequence, and the rest of the page list.

    With a window, tokens that the last position of their sequence does not see hold nothing either.
    """
    cache, indices, indptr = tensor(args, "k_cache"), tensor(args, "kv_indices"), tensor(args, "kv_indptr").long()
    page = cache.shape[1]
    place = torch.arange(len(indices), device=indices.device)
    owned = place < indptr[-1]
    free = torch.ones(cache.shape[:2], dtype=torch.bool, device=cache.device)
    place = place[owned]
    owner = torch.searchsorted(indptr[1:].contiguous(), place, right=True)
    token = ((place - indptr[owner]) * page)[:, None] + torch.arange(page, device=cache.device)
    lengths = cached_lengths(args)[owner, None]
    hidden = token >= lengths
    if window_left >= 0:
        hidden |= token < lengths - 1 - window_left
    free[indices[owned].long()] = hidden
    return {"k_cache": free[:, :, None, None], "v_cache": free[:, :, None, None], "kv_indices": ~owned}


# -- how timed inputs change -----------------------------------------------------------------------------------------------------
# Below, s counts slots, b sequences, t rows.


class Dealt(NamedTuple):
    """Where the sequences of every slot come from: a set and a place in it (int64 ``[s, b]`` each)."""

    sets: torch.Tensor
    sequences: torch.Tensor


class DealtRows(NamedTuple):
    """Where ragged rows come from that belong to sequences.

    Attributes:
        indptr: Start of every sequence (int64 ``[s, b + 1]``).
        owner: Sequence of a row (int64 ``[s, t]``); of rows past the last sequence, any.
        used: Whether a row is a sequence's (bool ``[s, t]``).
        from_set: Set that a row comes from, and ...
        from_row: ... its number there (int64 ``[s, t]`` each).
    """

    indptr: torch.Tensor
    owner: torch.Tensor
    used: torch.Tensor
    from_set: torch.Tensor
    from_row: torch.Tensor


def deal_sequences(entries: Entries, work: torch.Tensor) -> Dealt:
    """Sequences of equal work exchanged between sets, and given other places in theirs.

    Args:
        entries: The slots.
        work: A number for every sequence (int64 ``[sets, b]``). All sets have the same numbers, each in an order of its own.
    """
    batch = work.shape[1]
    by_work = work.argsort(dim=1, stable=True)
    ranks = torch.where(entries.kept[:, None], by_work.argsort(1)[entries.order], entries.permutations(batch))
    sets = entries.sets(batch).gather(1, ranks)
    return Dealt(sets, by_work[sets, ranks])


def deal_rows(dealt: Dealt, starts: torch.Tensor, rows: int) -> DealtRows:
    """The rows of dealt sequences, one sequence after another.

    Args:
        dealt: The sequences.
        starts: Of every set, where its sequences' rows start (int64 ``[sets, b + 1]``).
        rows: Rows t of a set.
    """
    sets, sequences = dealt
    batch = sets.shape[1]
    indptr = torch.nn.functional.pad(starts.diff(dim=1)[sets, sequences].cumsum(1), (1, 0))
    place = torch.arange(rows, device=sets.device).expand(len(sets), rows).contiguous()
    owner = torch.searchsorted(indptr[:, 1:].contiguous(), place, right=True).clamp_max(batch - 1)
    used = place < indptr[:, -1:]
    from_set = sets.gather(1, owner)
    from_row = starts[from_set, sequences.gather(1, owner)] + place - indptr.gather(1, owner)
    return DealtRows(indptr, owner, used, from_set, torch.where(used, from_row, 0))


def deal_pages(
    sizes: Mapping[str, int], entries: Entries, dealt: Dealt, key_factor: torch.Tensor, value_factor: torch.Tensor
) -> dict[str, Rows | torch.Tensor]:
    """Caches and tables of dealt sequences, on pages drawn anew; keys and values times factors of their sequence (``[s, b]``)."""
    pool = sizes["P"]
    starts, listed, last = (entries.stacks[name].long() for name in ("kv_indptr", "kv_indices", "last_page_len"))
    rows = deal_rows(dealt, starts, pool)
    source = torch.where(rows.used, rows.from_set * pool + listed[rows.from_set, rows.from_row], entries.whole() * pool)
    pages = torch.where(entries.kept[:, None], _spread(listed[entries.order], rows.used), entries.permutations(pool))
    ones = torch.ones(pages.shape, dtype=torch.float32, device=pages.device)

    def of_pages(factor: torch.Tensor) -> Rows:
        """Physical page ``pages[s, t]`` gets page t of the list."""
        return Rows(source.scatter(1, pages, source), ones.scatter(1, pages, factor.gather(1, rows.owner)))

    return {
        "k_cache": of_pages(key_factor), "v_cache": of_pages(value_factor), "kv_indptr": rows.indptr.int(),
        "kv_indices": torch.where(rows.used, pages, 0).int(), "last_page_len": last[dealt.sets, dealt.sequences].int(),
    }


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
