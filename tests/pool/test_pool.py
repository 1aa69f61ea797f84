"""Which order a judge gets next."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from fastkernels_env.journal import Entry
from fastkernels_env.pool import pool as pools
from fastkernels_env.pool.frames import Order
from fastkernels_env.pool.pool import JudgePool
from fastkernels_env.pool.seat import Job
from fastkernels_env.types import Context


@pytest.fixture
def pool():
    return JudgePool("cpu", 2, strict=False)


def job(task, alone=False):
    return Job(Order.of(Entry(task=task, text="", seed=1, effort="quick", context=Context(), prompt_hash="")), Future(), alone)


def test_first_come_first_served(pool):
    jobs = [job("rope"), job("rms_norm")]
    pool._jobs = [*jobs]
    assert [pool.take([]), pool.take([])] == jobs


def test_a_judge_goes_on_with_tasks_whose_baselines_it_has(pool):
    jobs = [job("rope"), job("rms_norm"), job("rope")]
    pool._jobs = [*jobs]
    assert [pool.take(["rms_norm"]), pool.take(["rms_norm"]), pool.take([])] == [jobs[1], jobs[0], jobs[2]]


def test_nothing_is_passed_over_for_long(pool):
    first, most = job("rope"), pools._MOST_PASSED * pool.judges
    pool._jobs = [first, *(job("rms_norm") for _ in range(most + 1))]
    assert [pool.take(["rms_norm"]).order.entry.task for _ in range(most + 1)] == ["rms_norm"] * most + ["rope"]


def test_what_is_judged_alone_waits_for_the_others_and_they_for_it(pool):
    before, apart, after = job("rope"), job("rope", alone=True), job("rope")
    pool._jobs = [before]
    assert pool.take([]) is before
    pool._jobs += [apart, after]
    assert pool._choose([]) is None
    pool.done(before)
    assert pool.take([]) is apart
    assert pool._choose([]) is None
    pool.done(apart)
    assert pool.take([]) is after
