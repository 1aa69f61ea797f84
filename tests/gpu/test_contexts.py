"""Contexts of forked processes, beside others that hold one."""

from __future__ import annotations

from fastkernels_env.bench.contexts import run_contexts


def test_every_combination_is_timed():
    told = []
    found = run_contexts([8, 1], [0, 2], 2, told.append)
    assert [(one.queues, one.idle) for one in found] == [(8, 0), (8, 2), (1, 0), (1, 2)]
    assert all(one.alone > 0 and one.each > 0 for one in found)
    assert len(told) == 4
