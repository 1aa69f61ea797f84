"""Pieces of attention tasks: the oracle against a plain one, lengths, page tables, what they leave unused."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastkernels_env.attention import attend, cached_lengths, packed_lengths, page_tables, paged, pooled_lengths, unused_slots
from fastkernels_env.recipes import Draw
from fastkernels_env.task import Workload
from fastkernels_env.types import Regime

REGIMES = (Regime.NORMAL, Regime.REALISTIC, Regime.SKEWED)


def draw(seed=1, shared=2, regime=Regime.REALISTIC):
    return Draw(seed, shared, regime, "cpu")


def one_by_one(q, k, v, scale, causal, window_left, sinks):
    """The same, for one head and one query at a time."""
    out, lse = torch.zeros_like(q[..., : v.shape[-1]]), torch.zeros(q.shape[:2], dtype=q.dtype)
    for i in range(len(q)):
        own = len(k) - len(q) + i
        first = max(own - window_left, 0) if window_left >= 0 else 0
        seen = slice(first, own + 1 if causal or window_left >= 0 else len(k))
        for h in range(q.shape[1]):
            shared = h // (q.shape[1] // k.shape[1])
            scores = k[seen, shared] @ q[i, h] * scale
            extra = scores.new_tensor([sinks[h]]) if sinks is not None else scores[:0]
            lse[i, h] = torch.cat((scores, extra)).logsumexp(0)
            out[i, h] = (scores - lse[i, h]).exp() @ v[seen, shared]
    return out, lse


@pytest.mark.parametrize("rows", [1, 3, 10**9])
@pytest.mark.parametrize(("causal", "window_left", "sunk"), [(False, -1, False), (True, -1, True), (True, 4, True), (True, 0, False)])
def test_attention_is_what_it_is_one_by_one(monkeypatch, rows, causal, window_left, sunk):
    generator = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(n, h, d, dtype=torch.float64, generator=generator) for n, h, d in ((7, 6, 8), (19, 2, 8), (19, 2, 5)))
    sinks = torch.randn(6, dtype=torch.float64, generator=generator) if sunk else None
    monkeypatch.setattr("fastkernels_env.attention._SCORES", rows * 6 * 19)
    found = attend(q, k, v, 0.7, causal=causal, window_left=window_left, sinks=sinks)
    for actual, expected in zip(found, one_by_one(q, k, v, 0.7, causal, window_left, sinks), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_no_queries_have_no_answers():
    out, lse = attend(torch.zeros(0, 4, 8), torch.zeros(3, 2, 8), torch.zeros(3, 2, 8), 1.0, causal=True)
    assert out.shape == (0, 4, 8)
    assert lse.shape == (0, 4)


@settings(max_examples=80)
@given(st.integers(0, 12), st.integers(0, 300), st.sampled_from(REGIMES), st.integers(0, 10**6))
def test_packed_lengths_add_up(count, more, regime, seed):
    total = count + more if count else 0
    lengths = packed_lengths(draw(seed, 7, regime), count, total, 0.9)
    assert len(lengths) == count
    assert int(lengths.sum()) == total
    assert not count or int(lengths.min()) >= 1
    other = packed_lengths(draw(seed + 1, 7, regime), count, total, 0.9)
    assert sorted(lengths.tolist()) == sorted(other.tolist()), "all entries of a ring cost the same"
    if regime is Regime.NORMAL and count:
        assert int(lengths.max() - lengths.min()) <= 1


@settings(max_examples=80)
@given(st.integers(1, 12), st.integers(1, 40), st.floats(1, 4), st.sampled_from(REGIMES), st.integers(0, 10**6))
def test_packed_lengths_obey_a_limit(count, mean, spread, regime, seed):
    most = int(mean * spread)
    lengths = packed_lengths(draw(seed, seed, regime), count, count * mean, 0.9, most)
    assert int(lengths.sum()) == count * mean
    assert 1 <= int(lengths.min()) <= int(lengths.max()) <= most


def test_skewed_lengths_have_one_long_sequence():
    lengths = packed_lengths(draw(regime=Regime.SKEWED), 8, 800, 0.9)
    assert 650 < int(lengths.max()) < 750


def cached(regime, window_left=-1):
    sizes = {"B": 4, "P": 24, "C": 24, "page": 4}
    workload = Workload(name="small", device="cpu", dtype="float32", sizes=sizes, params={"median": 9, "sigma": 0.8, "low": 1, "high": 30})
    source = draw(regime=regime)
    lengths = pooled_lengths(workload, source)
    shape = (sizes["P"], sizes["page"], 2, 3)
    caches = {name: torch.randn(shape, generator=source.generator) for name in ("k_cache", "v_cache")}
    return lengths, {**caches, **page_tables(workload, source, lengths)}


@pytest.mark.parametrize("regime", REGIMES)
def test_pages_hold_the_sequences(regime):
    lengths, args = cached(regime)
    assert torch.equal(cached_lengths(args), lengths)
    starts, pages = args["kv_indptr"].tolist(), args["kv_indices"]
    assert len(set(pages[: starts[-1]].tolist())) == starts[-1]
    for b, (keys, values) in enumerate(paged(args)):
        assert len(keys) == len(values) == lengths[b]
        for token in range(len(keys)):
            page = pages[starts[b] + token // 4]
            assert torch.equal(keys[token], args["k_cache"][page, token % 4])
            assert torch.equal(values[token], args["v_cache"][page, token % 4])


@pytest.mark.parametrize("window_left", [-1, 0, 6])
def test_what_is_unused_is_all_but_the_tokens(window_left):
    lengths, args = cached(Regime.REALISTIC)
    unused = unused_slots(args, window_left)
    expected = torch.ones(24, 4, dtype=torch.bool)
    starts = args["kv_indptr"].tolist()
    for b, length in enumerate(lengths.tolist()):
        for token in range(length):
            if window_left < 0 or token >= length - 1 - window_left:
                expected[args["kv_indices"][starts[b] + token // 4], token % 4] = False
    assert torch.equal(unused["k_cache"][:, :, 0, 0], expected)
    assert torch.equal(unused["v_cache"][:, :, 0, 0], expected)
    assert torch.equal(unused["kv_indices"], torch.arange(24) >= starts[-1])


def test_lengths_that_do_not_fit_are_cut():
    sizes = {"B": 6, "P": 12, "C": 12, "page": 4}
    workload = Workload(name="small", device="cpu", dtype="float32", sizes=sizes, params={"median": 20, "sigma": 0.5, "low": 8, "high": 90})
    for seed in range(20):
        lengths = pooled_lengths(workload, draw(seed, seed))
        assert int(lengths.min()) >= 1
        assert sum(math.ceil(length / 4) for length in lengths.tolist()) <= 12
