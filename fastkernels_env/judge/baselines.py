"""Production implementations as contestants: each in a worker of its own, kept between evaluations."""

from __future__ import annotations

import ast
import importlib.util
from collections import Counter, OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal, NamedTuple

import torch

from .._syntax import parse_module
from ..device import Device
from ..protocol import Load
from ..task import Baseline, Task
from ..types import BaselineReport, Regime
from .cases import Case, make_case
from .compare import Comparison
from .errors import LastingFault, WorkerDied, WorkerError
from .host import WorkerHost
from .scope import CALL_SECONDS
from .session import WorkerSession
from .verify import case_layout, compare_output, run_case

LOAD_SECONDS = 180.0
"""FlashInfer builds its kernels just in time; `warm` does so ahead."""
_MOST_DEATHS = 3
"""After this many a baseline stays out."""


class Contestant(NamedTuple):
    """A baseline that is up: its worker, and whether it plans."""

    baseline: Baseline
    session: WorkerSession
    has_plan: bool


def load_request(task: Task, baseline: Baseline) -> Load:
    """What a worker needs to load a baseline."""
    path = task.folder / "baselines" / baseline.file
    functions = {node.name for node in parse_module(path.read_text()).body if isinstance(node, ast.FunctionDef)}
    names, roles = zip(*((arg.name, arg.role.value) for arg in task.entry_signature), strict=True)
    return Load(
        str(path), "python", task.entry, names, roles, "prepare" in functions, "plan" in functions, compile=baseline.compile,
    )


def _skipped(baseline: Baseline, why: str) -> BaselineReport:
    return BaselineReport(name=baseline.name, status="skipped", detail=why)


class BaselinePool:
    """Workers of the baselines of the tasks that were used last.

    Args:
        host: Forks the workers.
        device: The judge's device.
        kept: Tasks whose baselines stay.
    """

    def __init__(self, host: WorkerHost, device: Device, kept: int) -> None:
        self._host, self._device, self._kept = host, device, kept
        self._tasks: OrderedDict[str, dict[str, Contestant]] = OrderedDict()
        self._openers = ThreadPoolExecutor(thread_name_prefix="baseline")
        self._opening: dict[str, list[Future[None]]] = {}
        self._reports: dict[str, dict[str, BaselineReport]] = {}
        self._deaths: Counter[tuple[str, str]] = Counter()

    def prefetch(self, task: Task, compiled: bool = True, last_resort: bool = False) -> None:
        """Start the task's baselines on this device in the background.

        Args:
            task: The task.
            compiled: Also those that go through torch.compile.
            last_resort: Also those that are a fallback on this device.
        """
        name = str(task.folder)
        living = self._tasks.setdefault(name, {})
        reports = self._reports.setdefault(name, {})
        opening = self._opening.setdefault(name, [])
        self._tasks.move_to_end(name)
        for baseline in task.baselines:
            if baseline.name in living and not living[baseline.name].session.living:
                living.pop(baseline.name).session.close()  # something killed it since it was last used: start it anew
                reports.pop(baseline.name)
            if self._device.kind not in baseline.devices or baseline.name in living:
                continue
            if baseline.compile and not compiled:
                reports.setdefault(baseline.name, _skipped(baseline, "not timed at this effort"))
            elif self._device.kind in baseline.fallback and not last_resort:
                reports.setdefault(baseline.name, _skipped(baseline, "only timed where no other baseline is available"))
            elif self._is_due(name, reports.get(baseline.name)):
                reports[baseline.name] = BaselineReport(name=baseline.name, status="used")
                opening.append(self._openers.submit(self._open, task, baseline, living, reports))
        while len(self._tasks) > self._kept:
            self._close_oldest()

    def contestants(self, task: Task, compiled: bool = True) -> dict[str, Contestant]:
        """The task's baselines that are up on this device, by name; waits for those that are starting."""
        self.prefetch(task, compiled)
        self._await(task)
        living = self._tasks[str(task.folder)]
        if not living and not self._had_others(task):
            self.prefetch(task, compiled, last_resort=True)
            self._await(task)
        order = [baseline.name for baseline in task.baselines]
        return {name: living[name] for name in order if name in living}

    def _had_others(self, task: Task) -> bool:
        """Whether a baseline was up and was lost: then the fallback would make a submission faster that got rid of its opponent."""
        return any(self._deaths[str(task.folder), baseline.name] for baseline in task.baselines)

    def _await(self, task: Task) -> None:
        for future in self._opening.pop(str(task.folder), []):
            future.result()

    def _close_oldest(self) -> None:
        name, living = self._tasks.popitem(last=False)
        for future in self._opening.pop(name, []):
            future.result()
        for contestant in living.values():
            contestant.session.close()
        self._reports.pop(name, None)

    def reports(self, task: Task) -> list[BaselineReport]:
        """Every baseline of the task on this device: used, or why not."""
        return list(self._reports.get(str(task.folder), {}).values())

    def drop(self, task: Task, name: str, error: WorkerError) -> None:
        """A baseline failed while it ran: say so and leave it out from now on, or if its process died, for the time being.

        What killed it may be the submission that it was timed against.
        """
        contestant = self._tasks[str(task.folder)].pop(name, None)
        if contestant:
            contestant.session.close()
        self._reports[str(task.folder)][name] = BaselineReport(name=name, status="failed", detail=error.summary)
        self._deaths[str(task.folder), name] += 1 if isinstance(error, WorkerDied) else _MOST_DEATHS

    def sessions(self) -> list[WorkerSession]:
        """Every living worker of a baseline, of other tasks too."""
        return [contestant.session for living in self._tasks.values() for contestant in living.values()]

    def reopen(self, task: Task, baseline: Baseline) -> Contestant | None:
        """Start a baseline anew whose process is gone; None if it does not come up."""
        living, reports = self._tasks[str(task.folder)], self._reports[str(task.folder)]
        self._open(task, baseline, living, reports)
        return living.get(baseline.name)

    def restart(self, task: Task, baseline: Baseline) -> Contestant | None:
        """Give a baseline that is up another process; None if that does not come up."""
        self._tasks[str(task.folder)].pop(baseline.name).session.close()
        return self.reopen(task, baseline)

    def _is_due(self, task: str, report: BaselineReport | None) -> bool:
        """Whether a baseline that is not up should be started."""
        if report is None or report.status == "skipped":
            return True
        return report.status == "failed" and self._deaths[task, report.name] < _MOST_DEATHS

    def _open(
        self, task: Task, baseline: Baseline, living: dict[str, Contestant], reports: dict[str, BaselineReport]
    ) -> None:
        if baseline.requires and importlib.util.find_spec(baseline.requires) is None:
            detail = f"the package {baseline.requires!r} is not installed"
            reports[baseline.name] = BaselineReport(name=baseline.name, status="not_available", detail=detail)
            return
        session, request = self._host.spawn(task, trusted=True), load_request(task, baseline)
        status: Literal["not_available", "failed"] = "not_available"
        try:
            session.load(request, LOAD_SECONDS)
            status = "failed"
            self._call_once(task, session)
        except WorkerError as error:
            session.close()
            reports[baseline.name] = BaselineReport(name=baseline.name, status=status, detail=error.summary)
            return
        reports[baseline.name] = BaselineReport(name=baseline.name, status="used")
        living[baseline.name] = Contestant(baseline, session, request.has_plan)

    def _call_once(self, task: Task, session: WorkerSession) -> None:
        """Let a baseline do what it does at a first call (compile, load, tune) while the submission is still being built."""
        device = self._device
        case = make_case(task, task.smoke_workload(device.kind), Regime.NORMAL, 0, device.torch_device, oracle=False)
        self._answer(task, session, case, LOAD_SECONDS)

    def _answer(self, task: Task, session: WorkerSession, case: Case, seconds: float) -> dict[str, torch.Tensor]:
        """What a baseline that has nothing attached makes of a case."""
        arena = self._device.allocate(case_layout(task, case).size, task.ranks)
        try:
            session.attach(arena)
            outputs = run_case(session, arena, self._device, task, case, seconds)
            session.detach()
            session.rest()
        finally:
            arena.close()
        return {name: copies[0] for name, copies in outputs.items()}

    def errors(self, task: Task, case: Case) -> dict[str, float]:
        """Smallest relative RMS error of the uncompiled baselines on a case, by output; empty if none of them runs.

        Raises:
            LastingFault: All of them fail by far: it is the case that is broken.
        """
        found: list[dict[str, Comparison]] = []
        for name, contestant in list(self.contestants(task, compiled=False).items()):
            if contestant.baseline.compile:
                continue
            try:
                outputs = self._answer(task, contestant.session, case, CALL_SECONDS)
            except WorkerError as error:
                self.drop(task, name, error)
                continue
            found.append({out: compare_output(task, case, out, values) for out, values in outputs.items()})
        if found and all(any(result.far for result in results.values()) for results in found):
            told = next(f"{out}: {result.describe()}" for out, result in found[0].items() if result.far)
            raise LastingFault(f"task {task.folder.name!r} is broken on {case.describe()}: no baseline agrees with the oracle: {told}")
        errors: dict[str, float] = {}
        for out, result in ((out, result) for results in found for out, result in results.items() if not result.nonfinite):
            errors[out] = min(result.rms, errors.get(out, result.rms))
        return errors

    def close(self) -> None:
        """End all workers."""
        self._openers.shutdown(wait=True, cancel_futures=True)
        for living in self._tasks.values():
            for contestant in living.values():
                contestant.session.close()
        self._tasks.clear()
