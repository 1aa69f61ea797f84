"""Torn blocks: which calls they make. That they find calls which make others is shown on a GPU (tests/gpu/test_timing.py)."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from fastkernels_env.judge.torn import tear

COUNTS = st.integers(4, 600)
SEEDS = st.integers(0, 2**32)


@given(COUNTS, SEEDS)
def test_a_torn_row_keeps_the_order_and_lacks_a_call_of_its_own_beginning(count, seed):
    calls = tear(count, torch.Generator().manual_seed(seed))
    assert calls == sorted(set(calls))
    assert 0 <= calls[0] <= calls[-1] < count
    assert len(calls) < count
    assert count // 2 - 1 <= len(calls) + max(len(calls) // 3, 1)


@given(st.integers(8, 600), SEEDS)
def test_most_torn_rows_differ(count, seed):
    secret = torch.Generator().manual_seed(seed)
    assert len({tuple(tear(count, secret)) for _ in range(8)}) > 1


@given(COUNTS.map(lambda half: 2 * half), SEEDS)
def test_no_pair_of_calls_is_safe(count, seed):
    """What one call of every pair does for both is missing, or written unasked, in some row out of sixty-four."""
    secret = torch.Generator().manual_seed(seed)
    rows = [set(tear(count, secret)) for _ in range(64)]
    assert any((2 * pair in row) != (2 * pair + 1 in row) for row in rows for pair in range(count // 2))
