"""Time one workload: build the rings, let candidate and baselines contest, turn samples into a `Timing`."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from ..device import Arena
from ..task import Cost, Task, Workload
from ..types import Peaks, Regime, Timing
from .cases import completed, derive_seed, make_case
from .effort import Plan
from .errors import JudgeFault, LastingFault, WorkerDied, WorkerError
from .geometry import plan_ring
from .profile import Profiler
from .score import Samples, best_baseline
from .sealed import Sealing, scored_us, seal
from .sets import InputSets
from .side import Side, SideError
from .turns import taking_turns

if TYPE_CHECKING:
    from .baselines import Contestant
    from .judge import Judge
    from .session import WorkerSession

MOVABLE_BYTES = 6 << 30
"""Rings up to this size are measured in several places: there is memory for more than two of them."""
FLOOR_SLACK = 0.8
"""A result is void only below this share of what published peaks allow."""


class Entrant(NamedTuple):
    """The side that is being judged.

    Attributes:
        name: Shown in errors.
        session: Its worker, artefact loaded, nothing attached.
        has_plan: Whether `plan` must run again when metadata changes.
        verified: Whether its timed outputs are compared with the oracle.
        limits: As those of `Answers`.
        no_graph: Why its calls must not be captured into graphs, where the device has them; empty if they may.
    """

    name: str
    session: WorkerSession
    has_plan: bool
    verified: bool
    limits: Mapping[str, float] = MappingProxyType({})
    no_graph: str = ""


class Measurement(NamedTuple):
    """What one workload showed."""

    timing: Timing
    samples: Samples
    setup_us: dict[str, float]
    sealing: Sealing


def measure(
    judge: Judge, task: Task, workload: Workload, seed: int, plan: Plan, candidate: Entrant, contestants: dict[str, Contestant],
    sets: InputSets | None = None,
) -> Measurement:
    """Time a candidate against the task's baselines on one workload.

    A baseline that fails is started anew and the workload measured again; one that raises or hangs twice is dropped (and reported), one
    that dies twice is a fault: nobody goes on without the best opponent. `contestants` follows suit. `sets` is what `draw_sets` gives for
    the same workload, seed and plan, if it was called ahead.

    Raises:
        JudgeFault: No baseline is left, or one died twice.
        WorkerError: The candidate raised, died or hung.
        TimedFailure: A timed output of the candidate was wrong.
        NotQuiet: Something kept the device busy while it was a baseline's turn.
    """
    device = judge.device
    sets = sets or draw_sets(judge, task, workload, seed, plan)
    failed: set[str] = set()
    arenas: list[Arena] = []
    try:
        placements = plan.placements if sets.geometry.size <= MOVABLE_BYTES else 1
        arenas = [device.allocate(sets.geometry.size, task.ranks) for _ in range(placements + 1)]
        while True:
            if not contestants:
                raise _no_baseline(judge, task)
            try:
                with taking_turns(candidate.session, judge.baselines.sessions(), judge.canary, judge.turnstile) as turns:
                    part = msgspec.structs.replace(plan, placements=placements).part()
                    profiler = Profiler(device, sets, part, derive_seed(seed, "profile", workload.name), turns, candidate.limits)
                    seen = _contest(profiler, arenas, candidate, contestants)
                    turns.settle()
                break
            except SideError as failure:
                if failure.side == candidate.name:
                    raise failure.error from None
                _replace(judge, task, contestants, failure, failed)
                candidate.session.forget()
    finally:
        _let_go(candidate.session, judge.baselines.sessions())
        for arena in arenas:
            arena.close()
    return _summarise(judge, workload, sets.cost, seen, candidate.no_graph)


def _replace(judge: Judge, task: Task, contestants: dict[str, Contestant], failure: SideError, failed: set[str]) -> None:
    """Start a baseline that failed anew; `failed` are those that did so before.

    Raises:
        JudgeFault: It died for the second time: whatever ended it, there would be no best opponent left.
    """
    name = failure.side
    judge.baselines.drop(task, name, failure.error)
    lost = contestants.pop(name)
    if name in failed:
        if isinstance(failure.error, WorkerDied):
            raise JudgeFault(f"baseline {name!r} died twice while a submission was timed against it: {failure.error.summary}")
        return
    failed.add(name)
    again = judge.baselines.reopen(task, lost.baseline)
    if again is not None:
        contestants[name] = again


def draw_sets(judge: Judge, task: Task, workload: Workload, seed: int, plan: Plan) -> InputSets:
    """The input sets on which `measure` times a workload."""
    where = judge.device.torch_device
    full = completed(task, workload, Regime.REALISTIC)
    probe = make_case(task, workload, Regime.REALISTIC, derive_seed(seed, workload.name), where, oracle=False)
    geometry = plan_ring(task, full, task.cost(full, probe.args), judge.peaks, judge.device, plan.caches, plan.block)
    return InputSets(task, workload, geometry, derive_seed(seed, workload.name), judge.device)


class _Seen(NamedTuple):
    """What a contest showed: all sides, the candidate first; the best of the others; and what was measured of these two alone."""

    sides: list[Side]
    best: Side
    sealing: Sealing
    clocks: dict[str, float]
    eager_us: tuple[float, float] | None
    placements: tuple[int, ...]


def _contest(profiler: Profiler, arenas: list[Arena], candidate: Entrant, contestants: dict[str, Contestant]) -> _Seen:
    """Measure all sides in turn, then candidate and best baseline in sealed calls, and in a loop where blocks are graphs.

    The rounds are repeated in other memory while there are arenas. No baseline gets one that the candidate had: it might still write to it.
    """
    samples: dict[str, list[float]] = {}
    placements = []
    for own, shared in itertools.pairwise(arenas):
        sides = _open(profiler, own, shared, candidate, contestants)
        profiler.measure(sides)
        placements.append(len(sides[0].samples_us))
        for side in sides:
            samples.setdefault(side.name, []).extend(side.samples_us)
    for side in sides:
        side.samples_us = samples[side.name]
    first, *others = sides
    best = next(side for side in others if side.name == best_baseline({side.name: side.samples_us for side in others}))
    sealing = seal(profiler, first, best)
    eager = None
    if profiler.device.graph:
        with profiler.turns.alone():
            eager = profiler.eager(first), profiler.eager(best)
    return _Seen(sides, best, sealing, profiler.clocks, eager, tuple(placements))


def _open(profiler: Profiler, own: Arena, shared: Arena, candidate: Entrant, contestants: dict[str, Contestant]) -> list[Side]:
    """Bind all workers to rings, the candidate's first; the baselines share one arena."""
    opened = profiler.open_side(
        candidate.name, candidate.session, own, verified=candidate.verified, replans=candidate.has_plan, graph=not candidate.no_graph
    )
    sides = [opened]
    for name, contestant in contestants.items():
        sides.append(profiler.open_side(name, contestant.session, shared, verified=False, replans=contestant.has_plan))
    return sides


def _let_go(judged: WorkerSession, trusted: Sequence[WorkerSession]) -> None:
    """Have every living worker unmap the rings; nothing more is asked of the trusted ones for a while."""
    for session in (judged, *trusted):
        with contextlib.suppress(WorkerError):
            session.forget()
    for session in trusted:
        session.rest()


def _no_baseline(judge: Judge, task: Task) -> JudgeFault:
    reports = judge.baselines.reports(task)
    why = "; ".join(f"{r.name}: {r.status} {r.detail}".strip() for r in reports) or "the task names none"
    kind = JudgeFault if any(report.status == "failed" for report in reports) else LastingFault  # what failed may run another time
    return kind(f"no baseline of task {task.folder.name!r} runs on this device: {why}")


def _summarise(judge: Judge, workload: Workload, cost: Cost, seen: _Seen, no_graph: str) -> Measurement:
    (candidate, *others), sealing = seen.sides, seen.sealing
    baselines = {side.name: side.samples_us for side in others}
    times = scored_us(candidate.samples_us, seen.best.samples_us, sealing)
    doubtful = 0.0 if sealing.resolved else sealing.added_us
    samples = Samples(workload.name, workload.count, times, dict(baselines), doubtful, seen.placements)
    median = float(np.median(times))
    published = judge.device.published_peaks()
    timing = Timing(
        workload=workload.name, count=workload.count, candidate_us=median,
        baselines={name: float(np.median(values)) for name, values in baselines.items()}, best_baseline=seen.best.name,
        speed_of_light=least_us(cost, workload.dtype, judge.peaks) / median if median > 0 else None,
        floor_us=FLOOR_SLACK * least_us(cost, workload.dtype, published) if published else None,
        mode=f"eager: {no_graph}" if no_graph and judge.device.graph else candidate.mode, calls=candidate.calls,
        candidate_samples_us=times, baseline_samples_us=baselines,
        sealed_pairs=sealing.pairs, sealed_excess_us=sealing.excess_us, sealed_low_us=sealing.low_us, sealed_high_us=sealing.high_us,
        sealed_allowed_us=sealing.allowed_us, sealed_added_us=sealing.added_us,
        eager_us=seen.eager_us[0] if seen.eager_us else median,
        baseline_eager_us=seen.eager_us[1] if seen.eager_us else float(np.median(baselines[seen.best.name])), clocks=seen.clocks,
    )
    setup = {f"{side.name}/{kind}": us for side in seen.sides for kind, us in side.setup_us.items()}
    return Measurement(timing, samples, setup, sealing)


def least_us(cost: Cost, dtype: str, peaks: Peaks) -> float:
    """Microseconds that the compulsory bytes and FLOPs of a call need at these rates, and what leaves a rank (the roofline)."""
    flops = peaks.flops_per_s.get(dtype) or max(peaks.flops_per_s.values(), default=float("inf"))
    link = cost.link / peaks.link_bytes_per_s if peaks.link_bytes_per_s else 0.0
    return max(cost.bytes / peaks.copy_bytes_per_s, cost.flops / flops, link) * 1e6
