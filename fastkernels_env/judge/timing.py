"""Time one workload: build the rings, let candidate and baselines contest, turn samples into a `Timing`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..device import Arena
from ..task import Cost, Task, Workload
from ..types import Peaks, Regime, Timing
from .cases import completed, derive_seed, make_case
from .errors import JudgeFault, LastingFault, WorkerError
from .profile import Plan, Profiler, Side, SideError
from .ring import InputSets, plan_ring
from .score import Samples, best_baseline

if TYPE_CHECKING:
    from .baselines import Contestant
    from .judge import Judge
    from .session import WorkerSession

FLOOR_SLACK = 0.8
"""A result is void only below this share of what published peaks allow."""


class Entrant(NamedTuple):
    """The side that is being judged.

    Attributes:
        name: Shown in errors.
        session: Its worker, artefact loaded, nothing attached.
        has_plan: Whether `plan` must run again when metadata changes.
        verified: Whether its timed outputs are compared with the oracle.
    """

    name: str
    session: WorkerSession
    has_plan: bool
    verified: bool


class Measurement(NamedTuple):
    """What one workload showed."""

    timing: Timing
    samples: Samples
    setup_us: dict[str, float]


def measure(
    judge: Judge, task: Task, workload: Workload, seed: int, plan: Plan, candidate: Entrant, contestants: dict[str, Contestant],
    sets: InputSets | None = None,
) -> Measurement:
    """Time a candidate against the task's baselines on one workload.

    A baseline that fails is dropped (and reported) and the workload is measured again without it. `sets` is what `draw_sets` gives for
    the same workload, seed and plan, if it was called ahead.

    Raises:
        JudgeFault: No baseline is left.
        WorkerError: The candidate raised, died or hung.
        TimedFailure: A timed output of the candidate was wrong.
    """
    device = judge.device
    sets = sets or draw_sets(judge, task, workload, seed, plan)
    profiler = Profiler(device, sets, plan, derive_seed(seed, "profile", workload.name))
    arenas: list[Arena] = []
    try:
        arenas = [device.allocate(sets.geometry.size) for _ in range(2)]
        while True:
            if not contestants:
                raise _no_baseline(judge, task)
            try:
                sides = _contest(profiler, arenas, candidate, contestants)
                break
            except SideError as failure:
                if failure.side == candidate.name:
                    raise failure.error from None
                judge.baselines.drop(task, failure.side, failure.error)
                contestants.pop(failure.side, None)
                candidate.session.forget()
    finally:
        _let_go([candidate.session, *(c.session for c in contestants.values())])
        for arena in arenas:
            arena.close()
    return _summarise(judge, workload, sets.cost, sides)


def draw_sets(judge: Judge, task: Task, workload: Workload, seed: int, plan: Plan) -> InputSets:
    """The input sets on which `measure` times a workload."""
    where = judge.device.torch_device
    full = completed(task, workload, Regime.REALISTIC)
    probe = make_case(task, workload, Regime.REALISTIC, derive_seed(seed, workload.name), where, oracle=False)
    geometry = plan_ring(task, full, task.cost(full, probe.args), judge.peaks, judge.device, plan.caches)
    return InputSets(task, workload, geometry, derive_seed(seed, workload.name), judge.device)


def _contest(profiler: Profiler, arenas: list[Arena], candidate: Entrant, contestants: dict[str, Contestant]) -> list[Side]:
    own, shared = arenas
    sides = [profiler.open_side(candidate.name, candidate.session, own, verified=candidate.verified, replans=candidate.has_plan)]
    for name, contestant in contestants.items():
        contestant.session.forget()
        sides.append(profiler.open_side(name, contestant.session, shared, verified=False, replans=contestant.has_plan))
    profiler.measure(sides)
    return sides


def _let_go(sessions: list[WorkerSession]) -> None:
    """Have every living worker unmap the rings."""
    for session in sessions:
        try:
            session.forget()
        except WorkerError:
            continue


def _no_baseline(judge: Judge, task: Task) -> JudgeFault:
    reports = judge.baselines.reports(task)
    why = "; ".join(f"{r.name}: {r.status} {r.detail}".strip() for r in reports) or "the task names none"
    kind = JudgeFault if any(report.status == "failed" for report in reports) else LastingFault  # what failed may run another time
    return kind(f"no baseline of task {task.folder.name!r} runs on this device: {why}")


def _summarise(judge: Judge, workload: Workload, cost: Cost, sides: list[Side]) -> Measurement:
    candidate, *others = sides
    baselines = {side.name: side.samples_us for side in others}
    samples = Samples(workload.name, workload.count, candidate.samples_us, dict(baselines))
    median = float(np.median(candidate.samples_us))
    published = judge.device.published_peaks()
    timing = Timing(
        workload=workload.name, count=workload.count, candidate_us=median,
        baselines={name: float(np.median(values)) for name, values in baselines.items()},
        best_baseline=best_baseline(samples.baselines),
        speed_of_light=least_us(cost, workload.dtype, judge.peaks) / median if median > 0 else None,
        floor_us=FLOOR_SLACK * least_us(cost, workload.dtype, published) if published else None,
        mode=candidate.mode, calls=candidate.calls, candidate_samples_us=candidate.samples_us, baseline_samples_us=baselines,
    )
    setup = {f"{side.name}/{kind}": us for side in sides for kind, us in side.setup_us.items()}
    return Measurement(timing, samples, setup)


def least_us(cost: Cost, dtype: str, peaks: Peaks) -> float:
    """Microseconds that the compulsory bytes and FLOPs of a call need at these rates (the roofline)."""
    flops = peaks.flops_per_s.get(dtype) or max(peaks.flops_per_s.values(), default=float("inf"))
    return max(cost.bytes / peaks.copy_bytes_per_s, cost.flops / flops) * 1e6
