"""The usual way to evaluate a kernel, to compare with: a process for each, five random inputs, a hundred timed calls.

It checks far less than the judge does: one public shape, normal inputs, a loose tolerance; the submission runs in the process that checks
and times it, unconfined but for its build. ``python -m fastkernels_env.bench.usual TASK FILE DEVICE`` prints one line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from ..build import Build
from ..judge.cases import make_case
from ..judge.verify import smoke_failure
from ..protocol import Load
from ..registry import load_task
from ..submission import extract
from ..task import Role, Task, dtype_of, shape_of
from ..types import Artifact, Language, Regime
from ..worker.loader import Entry, load

TRIALS = 5
CALLS = 100
_WARM_UP = 10


def main() -> None:
    """Evaluate one file."""
    name, file, device = sys.argv[1:]
    task = load_task(name)
    with Build(extract(Path(file).read_text(), task, device)) as build:
        print(json.dumps(evaluate(task, build.result(), device)))


def evaluate(task: Task, artifact: Artifact, device: str) -> dict[str, Any]:
    """Whether a submission is right, its speedup over the eager baseline, and seconds per call of both."""
    names, roles = tuple(arg.name for arg in task.signature), tuple(arg.role.value for arg in task.signature)
    entry = load(Load(artifact.path, artifact.language.value, artifact.entry, names, roles, artifact.has_prepare, artifact.has_plan))
    workload = task.smoke_workload(device)
    arguments: list[Any] = []
    for trial in range(TRIALS):
        case = make_case(task, workload, Regime.NORMAL, trial, device)
        values = {**case.args, **_outputs(task, case.workload, device)}
        arguments = [values[arg.name] for arg in task.signature]
        _call(entry, arguments)
        written = {arg.name: values[arg.name] for arg in task.outputs}
        if smoke_failure(task, case, {name: [value] for name, value in written.items() if isinstance(value, torch.Tensor)}):
            return {"right": False}
    plain = task.plain_baseline(device)
    assert plain is not None, "every task has an eager baseline"
    path, source = task.folder / "baselines" / plain.file, (task.folder / "baselines" / plain.file).read_text()
    eager = load(Load(str(path), Language.PYTHON.value, task.entry, names, roles, "def prepare(" in source, "def plan(" in source))
    eager_seconds, seconds = _seconds(eager, arguments, device), _seconds(entry, arguments, device)
    return {"right": True, "speedup": eager_seconds / seconds, "seconds": seconds, "eager_seconds": eager_seconds}


def _outputs(task: Task, workload: Any, device: str) -> dict[str, torch.Tensor]:
    return {
        arg.name: torch.empty(shape_of(arg, workload.sizes), dtype=getattr(torch, dtype_of(arg, workload)), device=device)
        for arg in task.signature if arg.role is Role.OUTPUT
    }


def _call(entry: Entry, arguments: list[Any]) -> None:
    if entry.native:
        import tvm_ffi

        with tvm_ffi.use_torch_stream() if torch.cuda.is_available() else contextlib.nullcontext():
            entry.call(*[tvm_ffi.from_dlpack(value) if isinstance(value, torch.Tensor) else value for value in arguments])
        return
    extras = {}
    if entry.prepare is not None:
        extras["prepared"] = entry.prepare(*arguments)
    if entry.plan is not None:
        extras["plan"] = entry.plan(*arguments)
    entry.call(*arguments, **extras)


def _seconds(entry: Entry, arguments: list[Any], device: str) -> float:
    """Median of a hundred calls, by events on a GPU."""
    for _ in range(_WARM_UP):
        _call(entry, arguments)
    return statistics.median((_by_events if device == "cuda" else _by_clock)(entry, arguments) for _ in range(CALLS))


def _by_clock(entry: Entry, arguments: list[Any]) -> float:
    start = time.perf_counter()
    _call(entry, arguments)
    return time.perf_counter() - start


def _by_events(entry: Entry, arguments: list[Any]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    _call(entry, arguments)
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1e-3


if __name__ == "__main__":
    main()
