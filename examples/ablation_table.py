"""What two judges say of each program of the grammar, as arrays, and the metrics of a policy: its mean over programs, then over seeds."""

from __future__ import annotations

import math

import grammar
import numpy as np
import numpy.typing as npt
import train_grpo
from ablation_page import SHARES, Arm, Dearest, Ends

from fastkernels_env.reward import load_preset
from fastkernels_env.types import Evaluation, Outcome, Status

Array = npt.NDArray[np.float64]
Log = dict[grammar.Program, Evaluation]

JUDGES = ("ours", "usual")
METRICS = (*SHARES, "speedup", "speedup_low", "over_seed", "believed", "paid", "production")
NEGLIGIBLE = 0.01
"""A policy that proposes fewer accepted kernels than this share has no speedup."""


class Table:
    """What the records say about each program of the grammar, as arrays of shape [programs]."""

    def __init__(self, ours: Log, usual: Log) -> None:
        self.logs = {"ours": ours, "usual": usual}
        self.programs = grammar.programs()
        records = [ours[program] for program in self.programs]
        kinds = [record.outcome.value if record.outcome.value in SHARES else "failed" for record in records]
        self.shares = {name: np.array([float(kind == name) for kind in kinds]) for name in SHARES}
        accepted = [record.speedup if record.outcome is Outcome.ACCEPTED else None for record in records]
        self.speedup = np.array([found.estimate if found else math.nan for found in accepted])
        self.low = np.array([found.low if found else math.nan for found in accepted])
        self.seed = ours[grammar.SEED]

    def paid(self, arm: Arm) -> Array:
        """The reward of each program, NaN on a fault."""
        preset = load_preset(arm.reward)
        totals = [preset.score(self.logs[arm.judge][program]).total for program in self.programs]
        return np.array([math.nan if total is None else total for total in totals])

    def believed(self, judge: str) -> Array:
        """The speedup over eager that a judge measured of each program that its unit test passes, NaN for the others."""
        return np.array([over_eager(self.logs[judge][program]) for program in self.programs])

    def dearest(self, arm: Arm) -> Dearest:
        """The first program that an arm pays most for."""
        paid = self.paid(arm)
        index = int(np.nanargmax(paid))
        name, outcome = self.told(self.programs[index])
        believed, speedup = (float(values[index]) for values in (self.believed(arm.judge), self.speedup))
        ties = int((paid >= paid[index] - 1e-9).sum())
        return Dearest(name, ties, float(paid[index]), outcome, believed, speedup)

    def told(self, program: grammar.Program) -> tuple[str, str]:
        """A program's name, and what our judge says of it."""
        return grammar.name_of(program), self.logs["ours"][program].outcome.value

    def best(self) -> tuple[str, Ends]:
        """The accepted program whose speedup is the largest for certain."""
        index = int(np.nanargmax(self.low))
        return grammar.name_of(self.programs[index]), interval_of(self.logs["ours"][self.programs[index]])

    def baselines(self) -> dict[str, list[str]]:
        """The baselines that were timed, by judge."""
        return {
            judge: sorted({name for record in log.values() for timing in record.timings for name in timing.baselines})
            for judge, log in self.logs.items()
        }

    def origin(self) -> str:
        """Where the records come from."""
        ours, usual = self.logs["ours"].values(), self.logs["usual"].values()
        device = ", ".join(sorted({f"{record.device.name}, {record.device.cores} cores" for record in (*ours, *usual)}))
        days = sorted({record.created[:10] for record in (*ours, *usual)})
        torches = ", ".join(sorted({version for record in ours if (version := record.versions.get("torch"))}))
        efforts = ", ".join(sorted({record.effort for record in ours}))
        return f"Records: {device}; torch {torches}; effort {efforts}; judged {' to '.join(dict.fromkeys((days[0], days[-1])))}."

    def metrics(self, probabilities: Array, arm: Arm) -> dict[str, Array]:
        """What policies earn and propose, each of shape [seeds]; probabilities of programs of shape [seeds, programs]."""
        found = {name: probabilities @ share for name, share in self.shares.items()}
        rare = found["accepted"] < NEGLIGIBLE
        speeds = {"speedup": self.speedup, "speedup_low": self.low}
        found |= {name: np.where(rare, math.nan, np.exp(mean(probabilities, np.log(speed)))) for name, speed in speeds.items()}
        found["over_seed"] = found["speedup"] / (self.seed.speedup.estimate if self.seed.speedup else math.nan)
        found["believed"] = np.exp(mean(probabilities, np.log(self.believed(arm.judge))))
        found["paid"] = mean(probabilities, self.paid(arm))
        found["production"] = mean(probabilities, self.paid(Arm("ours", "production")))
        return found


def interval_of(record: Evaluation) -> Ends:
    """The speedup of a record with its interval; NaN where it has none."""
    found = record.speedup
    return (found.estimate, found.low, found.high) if found else (math.nan, math.nan, math.nan)


def over_eager(record: Evaluation) -> float:
    """How much faster than the eager baseline a record says, weighted by counts; NaN if its unit test did not pass or nothing was timed."""
    smoke = record.check("smoke")
    timed = [timing for timing in record.timings if "eager" in timing.baselines]
    if smoke is None or smoke.status is not Status.PASSED or not timed:
        return math.nan
    candidate = sum(timing.count * timing.candidate_us for timing in timed)
    return sum(timing.count * timing.baselines["eager"] for timing in timed) / candidate if candidate > 0 else math.nan


def mean(probabilities: Array, values: Array) -> Array:
    """The mean of values, by the probability of their programs, over those that have one."""
    known = np.isfinite(values)
    weights = probabilities[:, known]
    total = weights.sum(1)
    found: Array = np.divide(weights @ values[known], total, out=np.full(len(total), math.nan), where=total > 0)
    return found


def interquartile_mean(values: Array, axis: int = 0) -> Array:
    """The mean of the middle half (rliable; Agarwal et al. 2021, arXiv 2108.13264)."""
    cut = values.shape[axis] // 4
    middle = np.sort(values, axis=axis).take(np.arange(cut, values.shape[axis] - cut), axis=axis)
    return np.asarray(middle.mean(axis))


def over_seeds(values: Array, name: str = "") -> Ends:
    """A metric over the seeds that have a value, with its 95 % bootstrap interval; NaN if none has, no interval if one has.

    The mean of a share, so that shares sum to 1; else the interquartile mean.
    """
    known = values[np.isfinite(values)]
    if not len(known):
        return math.nan, math.nan, math.nan
    statistic = np.mean if name in SHARES else interquartile_mean
    low, high = train_grpo.interval(known, statistic) if len(known) > 1 else (math.nan, math.nan)
    return float(statistic(known)), low, high
