"""From time samples to a speedup with an interval."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import msgspec
import numpy as np

from ..types import Speedup

RESAMPLES = 2000
CONFIDENCE = 0.95
MOST_WIDENING = 10.0


class Samples(NamedTuple):
    """Time samples of one workload in microseconds per call, paired by round.

    Attributes:
        workload: Name.
        weight: Of its time in the sum.
        candidate: One sample per round.
        baselines: By baseline, one sample per round; those that are not the best may have fewer.
        doubtful: Part of each of the candidate's samples of which it is not known whether it is noise.
        placements: How many of the rounds, in order, were measured in each place of memory; empty if there was one place.
    """

    workload: str
    weight: int
    candidate: Sequence[float]
    baselines: dict[str, Sequence[float]]
    doubtful: float = 0.0
    placements: tuple[int, ...] = ()


def best_baseline(baselines: dict[str, Sequence[float]]) -> str:
    """The baseline with the smallest median, of those that were timed in every round."""
    rounds = max(map(len, baselines.values()))
    full = [name for name, samples in baselines.items() if len(samples) == rounds]
    return min(full, key=lambda name: float(np.median(baselines[name])))


def ratios(samples: Samples) -> list[np.ndarray]:
    """Time of the best baseline over the candidate's, by place of memory and round."""
    all_of_them = np.asarray(samples.baselines[best_baseline(samples.baselines)]) / np.asarray(samples.candidate)
    return np.split(all_of_them, np.cumsum(samples.placements)[:-1])


def speedup(samples: Sequence[Samples], noise_floor: float, workload_floor: float = 0.0, seed: int = 0) -> Speedup:
    """Baseline time over candidate time, both summed over workloads with their counts.

    Per workload the best baseline counts. Its time is the candidate's median times the median ratio of the two within a round: a host
    that is slower for a while is so for both. The interval is a percentile bootstrap over rounds (candidate and baseline of one round
    stay together), then widened by differences between processes that no number of rounds inside them can see: some are the same on
    all workloads, some differ from one to the next and partly cancel. Its upper end leaves out what is doubtful of the candidate's times:
    the slower time scores, and is not claimed to be true.

    Args:
        samples: At least one workload with at least one round and one baseline.
        noise_floor: Relative half-width added in quadrature.
        workload_floor: Relative half-width per workload; those of all workloads are added in quadrature, each by its share of the time.
        seed: Of the bootstrap.
    """
    slower = _speedup(samples, noise_floor, workload_floor, seed)
    if not any(s.doubtful for s in samples):
        return slower
    certain = [s._replace(candidate=[us - s.doubtful for us in s.candidate]) for s in samples]
    return msgspec.structs.replace(slower, high=max(slower.high, _speedup(certain, noise_floor, workload_floor, seed).high))


def _speedup(samples: Sequence[Samples], noise_floor: float, workload_floor: float, seed: int) -> Speedup:
    rng = np.random.default_rng(seed)
    counts = np.array([max(s.weight, 1) for s in samples], dtype=float)
    pairs = [(np.asarray(s.candidate), np.asarray(s.baselines[best_baseline(s.baselines)])) for s in samples]
    ratios = np.array([np.median(base / cand) for cand, base in pairs])
    times = np.array([np.median(cand) for cand, _ in pairs])
    total = _ratio(counts, times, times * ratios)
    draws = np.array([_resample(rng, cand, base) for cand, base in pairs])  # [workloads, 2, RESAMPLES]
    resampled = _ratio(counts, draws[:, 0], draws[:, 0] * draws[:, 1])
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    widen = small_sample_factor(min(len(cand) for cand, _ in pairs))
    shares = counts * times * ratios / np.dot(counts, times * ratios)
    floor = np.hypot(noise_floor, workload_floor * np.linalg.norm(shares))
    below = np.hypot(np.log(total / low) * widen, floor)
    above = np.hypot(np.log(high / total) * widen, floor)
    worst = int(ratios.argmin())
    return Speedup(
        estimate=float(total), low=float(total * np.exp(-below)), high=float(total * np.exp(above)),
        worst=float(ratios[worst]), worst_workload=samples[worst].workload,
    )


def small_sample_factor(rounds: int) -> float:
    """How much wider an interval over few rounds must be than its bootstrap.

    ``sqrt(n / (n - 1))`` corrects the variance; Student's t over the normal quantile corrects for that variance being an estimate
    itself (Cornish-Fisher expansion of t, Abramowitz and Stegun 26.7.5).
    """
    if rounds < 2:
        return MOST_WIDENING
    z, df = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2), rounds - 1
    terms = ((z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    student = z + sum(term / df**power for power, term in enumerate(terms, 1))
    return float(min(student / z * np.sqrt(rounds / df), MOST_WIDENING))


def _ratio(counts: np.ndarray, candidate: Sequence[float] | np.ndarray, baseline: Sequence[float] | np.ndarray) -> np.ndarray:
    ratio: np.ndarray = np.tensordot(counts, np.asarray(baseline), 1) / np.tensordot(counts, np.asarray(candidate), 1)
    return ratio


def _resample(rng: np.random.Generator, candidate: np.ndarray, baseline: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Times of the candidate and ratios to them, ``[RESAMPLES]`` each."""
    picks = rng.integers(len(candidate), size=(RESAMPLES, len(candidate)))
    return np.median(candidate[picks], 1), np.median((baseline / candidate)[picks], 1)
