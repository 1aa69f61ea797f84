"""The speedup and its interval: properties that hold whatever the samples are."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastkernels_env.judge.score import Samples, best_baseline, speedup

TIMES = st.lists(st.floats(1.0, 1e6), min_size=3, max_size=12)
NOISE = st.sampled_from([0.0, 0.004, 0.03])


def samples(candidate, baseline, weight=1, name="w", **others):
    return Samples(name, weight, candidate, {"eager": baseline, **others})


@st.composite
def workloads(draw):
    rounds = draw(st.integers(2, 8))
    times = st.lists(st.floats(1.0, 1e5), min_size=rounds, max_size=rounds)
    count = draw(st.integers(1, 4))
    return [Samples(f"w{i}", draw(st.integers(1, 1000)), draw(times), {"a": draw(times), "b": draw(times)}) for i in range(count)]


def close(a, b):
    return math.isclose(a, b, rel_tol=1e-9)


@settings(max_examples=60)
@given(workloads(), NOISE)
def test_the_interval_holds_the_estimate_and_the_worst_is_no_better(drawn, noise):
    s = speedup(drawn, noise)
    assert 0 < s.low <= s.estimate * (1 + 1e-12)
    assert s.estimate <= s.high * (1 + 1e-12)
    assert s.worst <= s.estimate * (1 + 1e-12)
    assert s.worst_workload in {w.workload for w in drawn}


@settings(max_examples=60)
@given(workloads(), st.sampled_from([0.25, 0.5, 2.0, 8.0]), NOISE)
def test_a_candidate_that_is_twice_as_fast_scores_twice(drawn, factor, noise):
    faster = [Samples(w.workload, w.weight, [t * factor for t in w.candidate], w.baselines) for w in drawn]
    before, after = speedup(drawn, noise), speedup(faster, noise)
    for field in ("estimate", "low", "high", "worst"):
        assert close(getattr(after, field) * factor, getattr(before, field))
    assert after.worst_workload == before.worst_workload


@settings(max_examples=40)
@given(workloads(), st.sampled_from([0.5, 4.0]), NOISE)
def test_the_unit_of_time_does_not_matter(drawn, factor, noise):
    scaled = [
        Samples(w.workload, w.weight, [t * factor for t in w.candidate], {n: [t * factor for t in b] for n, b in w.baselines.items()})
        for w in drawn
    ]
    assert close(speedup(scaled, noise).estimate, speedup(drawn, noise).estimate)
    assert close(speedup(scaled, noise).low, speedup(drawn, noise).low)


@settings(max_examples=60)
@given(TIMES, NOISE)
def test_identical_samples_give_one_inside(times, noise):
    s = speedup([samples(times, times)], noise)
    assert close(s.estimate, 1.0)
    assert s.low <= 1 + 1e-12
    assert s.high >= 1 - 1e-12


@settings(max_examples=40)
@given(TIMES, NOISE)
def test_a_real_difference_is_resolved_and_its_inverse_too(times, noise):
    steady = [100.0 + i / 100 for i in range(len(times))]
    twice = [2 * t for t in steady]
    faster, slower = speedup([samples(steady, twice)], noise), speedup([samples(twice, steady)], noise)
    assert faster.low > 1.5
    assert slower.high < 0.7
    assert close(faster.estimate * slower.estimate, 1.0)


def test_differences_below_the_noise_floor_are_parity():
    steady = [100.0] * 8
    s = speedup([samples(steady, [101.0] * 8)], 0.03)
    assert s.low < 1 < s.estimate < s.high
    assert speedup([samples(steady, [101.0] * 8)], 0.0).low > 1


def test_a_larger_noise_floor_widens_both_ends():
    drawn = [samples([9.0, 10.0, 11.0, 10.0], [20.0, 21.0, 19.0, 20.0])]
    narrow, wide = speedup(drawn, 0.0), speedup(drawn, 0.2)
    assert wide.low < narrow.low <= narrow.high < wide.high
    assert wide.estimate == narrow.estimate


def test_what_differs_from_workload_to_workload_cancels_in_part():
    steady = [100.0] * 8
    one = speedup([samples(steady, steady)], 0.0, 0.02)
    four = speedup([samples(steady, steady, name=f"w{i}") for i in range(4)], 0.0, 0.02)
    lopsided = speedup([samples(steady, steady, weight=10**6), samples(steady, steady, name="w1")], 0.0, 0.02)
    assert close(one.high, math.exp(0.02))
    assert close(four.high, math.exp(0.01))
    assert lopsided.high == pytest.approx(one.high, rel=1e-4)


def test_more_rounds_narrow_the_interval():
    rng = random.Random(3)
    few, many = ([rng.gauss(100, 5) for _ in range(n)] for n in (6, 200))
    spread = [s.high / s.low for s in (speedup([samples(t, [100.0] * len(t))], 0.0) for t in (few, many))]
    assert spread[1] < spread[0]


def test_a_single_round_has_an_interval_of_the_noise_alone():
    s = speedup([samples([10.0], [30.0])], 0.03)
    assert close(s.estimate, 3.0)
    assert close(s.low, 3 * math.exp(-0.03))
    assert close(s.high, 3 * math.exp(0.03))


def test_rounds_of_candidate_and_baseline_stay_together():
    """Drift that both sides share cancels; the same values in another order do not."""
    drift = [100.0 * 1.3**i for i in range(10)]
    paired = speedup([samples(drift, [t * 1.5 for t in drift])], 0.0)
    shuffled = speedup([samples(drift, [t * 1.5 for t in reversed(drift)])], 0.0)
    assert close(paired.low, 1.5)
    assert close(paired.high, 1.5)
    assert shuffled.high / shuffled.low > 1.5


def test_counts_weight_the_time():
    fast, slow = ([10.0] * 5, [40.0] * 5), ([10.0] * 5, [5.0] * 5)
    mostly_fast = speedup([samples(*fast, 99, "fast"), samples(*slow, 1, "slow")], 0.0)
    mostly_slow = speedup([samples(*fast, 1, "fast"), samples(*slow, 99, "slow")], 0.0)
    assert close(mostly_fast.estimate, (99 * 40 + 5) / (99 * 10 + 10))
    assert close(mostly_slow.estimate, (40 + 99 * 5) / (10 + 99 * 10))
    for s in (mostly_fast, mostly_slow):
        assert (s.worst, s.worst_workload) == (0.5, "slow")


@settings(max_examples=30)
@given(workloads())
def test_the_order_of_workloads_does_not_matter_to_the_estimate(drawn):
    assert close(speedup(drawn, 0.0).estimate, speedup(drawn[::-1], 0.0).estimate)


def test_per_workload_the_fastest_baseline_counts():
    a = samples([10.0] * 4, [30.0] * 4, library=[20.0] * 4)
    b = samples([10.0] * 4, [20.0] * 4, library=[30.0] * 4)
    assert best_baseline(a.baselines) == "library"
    assert best_baseline(b.baselines) == "eager"
    assert close(speedup([a, b], 0.0).estimate, 2.0)


def test_one_slow_round_does_not_make_a_baseline_slow():
    assert best_baseline({"spiky": [10.0, 10.0, 10.0, 1e6], "even": [11.0] * 4}) == "spiky"


@settings(max_examples=30)
@given(workloads(), st.integers(0, 10))
def test_the_same_samples_give_the_same_interval(drawn, seed):
    assert speedup(drawn, 0.01, seed=seed) == speedup(drawn, 0.01, seed=seed)
