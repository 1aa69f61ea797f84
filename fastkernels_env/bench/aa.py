"""How far speedups can be trusted: ``fastkernels-env bench aa``.

A/A: a task's best baseline is submitted against itself, in a worker of its own that is replaced every few runs, through the profile
stage alone, on one public workload after the other. The true speedup is 1.0, so the share of intervals that contain 1.0 is the coverage,
and their half-width is the resolution. Runs on every workload once make up a whole profile stage, which is what scores are made of. Every
run is one line of a JSONL file; a second call goes on where the first one stopped.
"""

from __future__ import annotations

import datetime
import secrets
from pathlib import Path

import msgspec

from .._terminal import Problem, tell
from ..judge.attempts import excess_by_chance
from ..judge.baselines import LOAD_SECONDS, Contestant, load_request
from ..judge.effort import get_effort
from ..judge.judge import Judge
from ..judge.score import ratios, speedup
from ..judge.session import WorkerSession
from ..judge.timing import Entrant, measure
from ..registry import load_task
from ..task import Task
from ..versions import versions
from .aa_runs import Run, read_runs, summary

FRESH_EVERY = 4
"""Runs after which the candidate's worker is replaced."""


def run_aa(kind: str, names: list[str], runs: int, effort: str, chosen: dict[str, str], out: Path) -> str:
    """Do the runs that `out` does not hold yet; returns the table of all that it then holds.

    Args:
        kind: Device kind.
        names: Tasks.
        runs: Runs per task.
        effort: ``full`` or ``quick``.
        chosen: Baseline by task; where none is named the best one is searched for.
        out: JSONL file.
    """
    done = read_runs(out)
    finished = {(run.task, run.number) for run in done}
    todo = [(name, number) for name in names for number in range(runs) if (name, number) not in finished]
    if todo:
        _run_all(kind, todo, effort, chosen, out)
    return summary(read_runs(out))


def _run_all(kind: str, todo: list[tuple[str, int]], effort: str, chosen: dict[str, str], out: Path) -> None:
    judge = Judge(kind)
    pairs: dict[str, _Pair] = {}
    try:
        for name, number in todo:
            if name not in pairs:
                for pair in pairs.values():
                    pair.close()
                pairs = {name: _Pair(judge, load_task(name), chosen.get(name))}
            run = run_once(pairs[name], number, effort)
            with out.open("ab") as file:
                file.write(msgspec.json.encode(run) + b"\n")
            tell(f"{name} {number}: {run.baseline} {run.estimate:.4f} [{run.low:.4f}, {run.high:.4f}]")
    finally:
        judge.close()


class _Pair:
    """A task's best baseline, twice: the contestant that evaluations use, and a worker of its own as the candidate.

    Args:
        judge: Of the device.
        task: The task.
        name: Of the baseline; the best by a quick measurement if None.
    """

    def __init__(self, judge: Judge, task: Task, name: str | None) -> None:
        self.judge, self.task = judge, task
        self.name = name or _best(judge, task)
        self._session: WorkerSession | None = None

    def candidate(self, fresh: bool) -> Entrant:
        """The candidate, in a new worker if `fresh`."""
        contestant = self.contestant()
        if fresh or self._session is None:
            self.close()
            self._session = self.judge.host.spawn(self.task, trusted=True)
            self._session.load(load_request(self.task, contestant.baseline), LOAD_SECONDS)
        return Entrant("candidate", self._session, contestant.has_plan, verified=False)

    def contestant(self) -> Contestant:
        """The baseline as evaluations time it."""
        compiled = any(baseline.compile for baseline in self.task.baselines if baseline.name == self.name)
        living = self.judge.contestants(self.task, compiled)
        if self.name not in living:
            raise Problem(f"baseline {self.name!r} of task {self.task.folder.name!r} does not run here: {list(living)} do")
        return living[self.name]

    def close(self) -> None:
        """End the candidate's worker."""
        if self._session is not None:
            self._session.close()
            self._session = None


def run_once(pair: _Pair, number: int, effort: str) -> Run:
    """One A/A run: the profile stage on one public workload, a different one in each run of a task."""
    judge, task = pair.judge, pair.task
    kind = judge.device.kind
    public = task.workloads(kind)
    workload = public[number % len(public)]
    fresh = number % FRESH_EVERY == 0
    with judge.device.judging():
        entrant, against = pair.candidate(fresh), {pair.name: pair.contestant()}
        plan = get_effort(effort).plan(kind)
        measured = measure(judge, task, workload, secrets.randbits(48), plan, entrant, against)
        if excess_by_chance(judge, measured):  # as an evaluation does
            measured = measure(judge, task, workload, secrets.randbits(48), plan, pair.candidate(fresh=True), against)
    result = speedup([measured.samples], plan.noise_floor, plan.workload_floor, secrets.randbits(30))
    return Run(
        task=task.folder.name, number=number, device=judge.device.info().name, baseline=pair.name, workload=workload.name, effort=effort,
        estimate=result.estimate, low=result.low, high=result.high, call_us=measured.timing.candidate_us,
        kind=kind, count=workload.count, ratios=[[round(float(ratio), 5) for ratio in place] for place in ratios(measured.samples)],
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), versions=versions(),
    )


def _best(judge: Judge, task: Task) -> str:
    """The baseline that is best on most public workloads, by a quick measurement."""
    kind = judge.device.kind
    contestants = judge.contestants(task, compiled=True)
    if len(contestants) == 1:
        return next(iter(contestants))
    first = next(iter(contestants.values()))
    wins = dict.fromkeys(contestants, 0)
    session = judge.host.spawn(task, trusted=True)
    try:
        session.load(load_request(task, first.baseline), LOAD_SECONDS)
        entrant = Entrant("candidate", session, first.has_plan, verified=False)
        for workload in task.workloads(kind):
            with judge.device.judging():
                measured = measure(judge, task, workload, secrets.randbits(48), get_effort("quick").plan(kind), entrant, dict(contestants))
            wins[measured.timing.best_baseline] += 1
    finally:
        session.close()
    return max(wins, key=lambda name: wins[name])
