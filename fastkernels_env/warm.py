"""Prepare a host: measure its rates, build every baseline and run it on every public workload, so that evaluations find it ready.

Kernels that are compiled just in time (torch.compile, FlashInfer, Triton) take up to half a minute when they first see a shape.
They are run here with the shapes, strides and calling convention of evaluations, without an evaluation's deadlines.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from rich.table import Table
from rich.text import Text

from .build import precompile_prelude
from .judge.cases import Case, derive_seed, make_case
from .judge.errors import JudgeFault, WorkerError
from .judge.provide import provide, provide_graph
from .judge.verify import case_layout, run_case, smoke_case
from .types import BaselineReport, Regime

if TYPE_CHECKING:
    from .judge.baselines import Contestant
    from .judge.judge import Judge
    from .task import Task

FIRST_CALL_SECONDS = 600.0
"""A first call may build a library."""
_SEED = 1
_STYLES = {"used": "green", "not_available": "dim", "failed": "bold red", "fault": "bold black on yellow"}


class Warmed(NamedTuple):
    """What became of one baseline.

    Attributes:
        task: Name of the task.
        baseline: Name of the baseline; empty if the task itself is broken.
        status: ``used``, ``not_available``, ``failed``; or ``fault``: the task or the device is broken.
        seconds: Time that it took; None if an earlier call has done it.
        detail: Why it is not used, or how it will be timed.
    """

    task: str
    baseline: str
    status: str
    seconds: float | None = None
    detail: str = ""


def warm(
    judge: Judge, tasks: Iterable[Task], *, force: bool = False, progress: Callable[[str], None] | None = None
) -> list[Warmed]:
    """Measure the host's rates and build, run and verify the baselines of tasks.

    A task that was warmed before on this host, with these versions, is skipped. Every other baseline runs once on each public
    workload, and its output on the smoke case must be right.

    Args:
        judge: Of the device to warm.
        tasks: Tasks; those without a public workload for the device are left out.
        force: Warm again what was warmed before.
        progress: Called with a line of text before each step.

    Returns:
        One entry per baseline, in the order of the tasks.
    """
    say = progress or (lambda text: None)
    say("measuring this host")
    assert judge.peaks
    say("precompiling headers")
    precompile_prelude()
    say("letting the compile stack compile what it needs for itself")
    provide(judge.host, force)
    results: list[Warmed] = []
    for task in tasks:
        name = task.folder.name
        if not task.workloads(judge.device.kind):
            continue
        if not force and name in judge.warmed:
            results += [Warmed(name, baseline, status) for baseline, status in judge.warmed[name].items()]
            continue
        try:
            with judge.device.judging():
                results += _warm_task(judge, task, say)
        except JudgeFault as error:
            results.append(Warmed(name, "", "fault", detail=str(error)))
        except Exception as error:
            results.append(Warmed(name, "", "fault", detail=f"task {name!r}: {type(error).__name__}: {error}"))
    return results


def _warm_task(judge: Judge, task: Task, say: Callable[[str], None]) -> list[Warmed]:
    name = task.folder.name
    say(f"{name}: starting its baselines")
    seconds: dict[str, float] = {}
    notes: dict[str, str] = {}
    cases = _cases(judge, task)
    for baseline, contestant in list(judge.contestants(task, compiled=True).items()):
        say(f"{name}: {baseline}")
        start = time.perf_counter()
        try:
            notes[baseline] = _try(judge, task, contestant, cases)
        except WorkerError as error:
            # Not as a death: here no submission can have killed it, so there is no second try.
            judge.baselines.drop(task, baseline, WorkerError(error.summary, error.detail))
        seconds[baseline] = time.perf_counter() - start
    say(f"{name}: the graph around its operator")
    provide_graph(judge, task)
    reports: list[BaselineReport] = judge.baselines.reports(task)
    judge.note_warm(task, reports)
    return [Warmed(name, r.name, r.status, seconds.get(r.name, 0.0), r.detail or notes.get(r.name, "")) for r in reports]


def _cases(judge: Judge, task: Task) -> list[Case]:
    """The smoke case with its oracle, then every public workload as it is timed."""
    kind, where = judge.device.kind, judge.device.torch_device
    smoke = make_case(task, task.smoke_workload(kind), Regime.NORMAL, derive_seed(_SEED, "smoke"), where)
    timed = [
        make_case(task, workload, Regime.REALISTIC, derive_seed(_SEED, workload.name), where, oracle=False)
        for workload in task.workloads(kind)
    ]
    return [smoke, *timed]


def _try(judge: Judge, task: Task, contestant: Contestant, cases: Sequence[Case]) -> str:
    """Run a baseline on every case; why it will not be timed as a graph, where it should be.

    Raises:
        WorkerError: It raised, died or hung, or its output on the smoke case was wrong.
    """
    session, device = contestant.session, judge.device
    mode = ""
    arena = device.allocate(max(case_layout(task, case).size for case in cases), task.ranks)
    try:
        session.attach(arena)
        if failure := smoke_case(session, arena, device, task, cases[0], FIRST_CALL_SECONDS):
            raise WorkerError(f"wrong on the smoke case: {failure}")
        for case in cases[1:]:
            run_case(session, arena, device, task, case, FIRST_CALL_SECONDS)
            armed = session.arm([[0], [0, 1]], device.graph, FIRST_CALL_SECONDS)
            mode = mode or armed.removeprefix("eager").removeprefix("graph").removeprefix(": ")
        session.detach()
    finally:
        arena.close()
    return mode


def warm_table(results: Sequence[Warmed], device: str) -> Table:
    """One row per baseline."""
    table = Table(
        title=f"Baselines on {device}", title_justify="left", title_style="bold", header_style="dim", box=None, pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for column in ("task", "baseline", "status"):
        table.add_column(column, no_wrap=True)
    table.add_column("seconds", justify="right")
    table.add_column("detail", overflow="fold")
    previous = ""
    for result in results:
        seconds = "before" if result.seconds is None else f"{result.seconds:.1f}"
        status = Text(result.status.replace("_", " "), _STYLES.get(result.status, ""))
        task = "" if result.task == previous else result.task
        table.add_row(Text(task), Text(result.baseline), status, seconds, Text(result.detail, "dim"))
        previous = result.task
    return table
