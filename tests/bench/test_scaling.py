"""Clusters of different size are compared over real actors."""

from __future__ import annotations

import os

import pytest
import ray

from fastkernels_env.bench.scaling import lines, run_scaling


def test_every_size_has_its_share_of_cores_and_all_of_its_answers(host_cache):
    before, told = os.sched_getaffinity(0), []
    result = run_scaling("cpu", ["silu_and_mul"], ["cpu.cpp"], 1, "quick", 1, [1, 2], told.append)
    share = max(len(before) // 2, 1)
    assert [(run.actors, run.judges, run.cores, run.submissions) for run in result.runs] == [(1, 1, share, 4), (2, 2, 2 * share, 8)]
    assert [run.outcomes for run in result.runs] == [{"accepted": 4}, {"accepted": 8}]
    assert len(told) == 12
    assert all(0 < run.first < run.seconds for run in result.runs)
    assert result.ratio == pytest.approx(result.runs[1].steady_per_minute / result.runs[0].steady_per_minute)
    assert os.sched_getaffinity(0) == before
    assert not ray.is_initialized()
    assert len(list(lines(result))) == 3


def test_there_are_no_more_actors_than_cores():
    most = len(os.sched_getaffinity(0))
    with pytest.raises(ValueError, match=f"expected at most {most} actors, one for each core of this host, got {most + 1}"):
        run_scaling("cpu", ["silu_and_mul"], ["cpu.cpp"], 1, "quick", 1, [most + 1])
