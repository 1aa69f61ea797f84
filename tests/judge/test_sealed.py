"""Sealed calls: what their times mean. That cheats are found by them stands in test_profile."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from fastkernels_env.judge.sealed import SUSPICIOUS, Sealing, judge_calls, lower_quartile, scored_us

CALLS = st.lists(st.floats(0.0, 1e4), min_size=6, max_size=40)


def calls(centre, count, spread=1.0, seed=0):
    rng = random.Random(seed)
    return [centre + rng.uniform(0, spread) for _ in range(count)]


@settings(max_examples=100)
@given(CALLS)
def test_a_quartile_lies_in_its_interval_and_among_the_samples(samples):
    low, middle, high = lower_quartile(samples)
    assert min(samples) <= low <= middle <= high <= max(samples)
    assert sum(sample < middle for sample in samples) <= len(samples) / 4
    assert sum(sample <= middle for sample in samples) >= len(samples) / 4


def test_the_interval_of_a_quartile_holds_it():
    rng, held = random.Random(1), 0
    for _ in range(400):
        low, _, high = lower_quartile([rng.random() for _ in range(24)])
        held += low <= 0.25 <= high
    assert held > 0.93 * 400


@settings(max_examples=100)
@given(CALLS, CALLS, CALLS, CALLS, st.floats(1.0, 100.0))
def test_the_excess_lies_in_its_interval_and_verdicts_exclude_each_other(candidate, baseline, ring_candidate, ring_baseline, allowed):
    sealing = judge_calls(candidate, baseline, ring_candidate, ring_baseline, allowed)
    assert sealing.low_us <= sealing.excess_us <= sealing.high_us
    assert not (sealing.settled and sealing.suspicious)
    assert not (sealing.settled and sealing.added_us)
    assert sealing.added_us in (0.0, sealing.excess_us)
    if sealing.suspicious:
        assert sealing.resolved
        assert sealing.added_us > SUSPICIOUS * allowed


def test_equal_differences_are_settled_whatever_the_round_trip_takes():
    sealing = judge_calls(calls(370, 12), calls(390, 12, seed=1), calls(20, 10, seed=2), calls(40, 10, seed=3), 4.0)
    assert sealing.settled
    assert sealing.added_us == 0


def test_a_candidate_that_is_slow_when_sealed_is_suspicious():
    sealing = judge_calls(calls(400, 12), calls(390, 12, seed=1), calls(20, 10, seed=2), calls(40, 10, seed=3), 4.0)
    assert sealing.suspicious
    assert 25 < sealing.added_us < 35


def test_a_candidate_that_is_a_little_slower_when_sealed_pays_for_it():
    sealing = judge_calls(calls(376.5, 12), calls(390, 12, seed=1), calls(20, 10, seed=2), calls(40, 10, seed=3), 4.0)
    assert not sealing.settled
    assert not sealing.suspicious
    assert sealing.added_us > 4


def test_a_few_slow_calls_of_a_busy_host_prove_nothing():
    busy = [*calls(390, 9), 5000.0, 7000.0, 9000.0]
    sealing = judge_calls(busy, calls(390, 12, seed=1), calls(40, 10, seed=2), calls(40, 10, seed=3), 4.0)
    assert sealing.added_us == 0
    assert not sealing.suspicious


def test_a_busy_host_that_stretches_calls_in_a_row_is_no_evidence():
    """Figures of an honest kernel on two cores with six busy processes."""
    candidate, baseline = [1746, 1775, 1826, 1842, 1855, 1907], [2679, 2756, 3174, 3467, 5884, 7160]
    sealing = judge_calls(candidate, baseline, [2000, 2475, 3009], [8336, 8786, 12034], 2196)
    assert sealing.settled


def test_where_the_host_is_too_busy_for_a_round_trip_nothing_is_paid_and_nothing_is_evidence():
    """Figures of answers that a thread computes before "go": to wake the baseline takes as long as their work."""
    figures = calls(5000, 12), calls(12000, 12, seed=1), calls(7, 10, seed=2), calls(6900, 10, seed=3), 1725.0
    assert judge_calls(*figures).added_us == 0
    sealing = judge_calls(*figures, most_trip_us=3000.0)._replace(late_us=5100.0)
    assert sealing.busy
    assert sealing.added_us > 4900
    assert not sealing.suspicious


def test_what_is_seen_while_others_use_the_processors_is_neither_evidence_nor_certain():
    quiet = Sealing(12, 544.0, 422.0, 650.0, 186.0)
    assert quiet.suspicious
    assert quiet.resolved
    crowded = quiet._replace(crowded=True)
    assert not crowded.suspicious
    assert not crowded.resolved
    assert crowded.added_us == quiet.added_us, "the slower time scores all the same"


@settings(max_examples=100)
@given(st.floats(0.1, 1e3), st.floats(0.1, 1e3), st.floats(-1e3, 1e4), st.floats(0.0, 1e4), st.floats(0.0, 1e4), st.floats(1.0, 100.0))
def test_what_scores_is_at_least_the_ring_and_beats_the_baseline_only_where_that_is_known(ring, baseline, excess, below, above, allowed):
    sealing = Sealing(8, excess, excess - below, excess + above, allowed)
    [us] = scored_us([ring], [baseline], sealing)
    assert us >= ring
    assert us >= ring + sealing.added_us or us == baseline
    if not sealing.resolved and sealing.added_us > ring:
        assert us >= baseline
    if not sealing.added_us:
        assert us == ring


def test_a_slow_ring_is_no_evidence():
    sealing = judge_calls(calls(390, 12), calls(390, 12, seed=1), calls(90, 10, seed=2), calls(40, 10, seed=3), 4.0)
    assert sealing.settled
