"""Torn blocks: which calls they make, and what they find. Real graphs are torn on a GPU (tests/gpu/test_timing.py)."""

from __future__ import annotations

import textwrap

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastkernels_env import Outcome
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


PAIRED = """
    import sys
    import torch

    ring = {}

    def around(function, name):
        frame = sys._getframe()
        while frame is not None:
            if frame.f_code.co_name == function and name in frame.f_locals:
                return frame.f_locals[name]
            frame = frame.f_back
        return ()

    def work(out, input, weight, factor):
        torch.mul(input, weight, out=out)
        out.mul_(factor)

    def tiny_scale(out, input, weight, factor):
        own = (out, input, weight, factor)
        in_a_row = len(around("run", "calls")) > 3
        if not around("_obey_clock", "self"):
            if in_a_row:
                ring[out.data_ptr()] = own
            return work(*own)
        places = list(ring)
        place = places.index(out.data_ptr())
        if not in_a_row or place // SIZE * SIZE + SIZE > len(places) - 2:
            return work(*own)
        if place % SIZE == 0:
            for other in places[place : place + SIZE]:
                work(*ring[other])
"""


@pytest.mark.parametrize(("size", "outcome"), [(1, Outcome.ACCEPTED), (2, Outcome.TAMPERED), (4, Outcome.TAMPERED)])
def test_work_that_one_call_does_for_others_is_tampering(size, outcome, evaluator, tiny, monkeypatch):
    """Without torn blocks it would pass, or only pay less: in a row all outputs are right, and a lone call does its own work."""
    monkeypatch.setattr(evaluator.open().device, "tears", True)
    evaluation = evaluator.evaluate("tiny_scale", f"```python\n{textwrap.dedent(PAIRED).replace('SIZE', str(size))}\n```")
    assert evaluation.outcome is outcome, evaluation.reason
    if size > 1:
        assert "another call" in evaluation.reason or "wrote nothing" in evaluation.reason


def test_the_same_passes_where_nothing_is_torn(evaluator, tiny, monkeypatch):
    monkeypatch.setattr(evaluator.open().device, "tears", False)
    evaluation = evaluator.evaluate("tiny_scale", f"```python\n{textwrap.dedent(PAIRED).replace('SIZE', '2')}\n```")
    assert "another call" not in evaluation.reason
    assert "wrote nothing" not in evaluation.reason
