"""One architecture in a process of its own: built, run without data, and charged by roofline."""

from __future__ import annotations

import gc
import os
import warnings
from collections import defaultdict
from importlib import metadata
from multiprocessing.connection import Connection

import msgspec
import torch

from . import hooks, models, workloads
from .architectures import Architecture
from .categories import category_of
from .grouping import Kernel, kernels_of
from .measured import Measured, StepTime
from .roofline import seconds
from .tracing import Tracer


def measure(architecture: Architecture) -> Measured:
    """Build and run an architecture in this process. Problems of the model become part of the result."""
    prepare()
    best: Measured | None = None
    for implementation in (hooks.IMPLEMENTATION, "sdpa"):  # some code does not run without masks
        found = _attempt(architecture, implementation)
        if best is None or not found.problem:
            best = found
        if not found.problem or not found.model_class:
            break
    assert best is not None
    return best


def _attempt(architecture: Architecture, implementation: str) -> Measured:
    tracer = Tracer()
    steps: list[workloads.Step] = []
    model_class, problem = "", ""
    try:
        with hooks.observed(tracer), tracer:
            model = models.build(architecture.model_type, implementation)
            model_class = type(model).__name__
            problem = workloads.run_steps(model, tracer, steps)
    except models.NotBuilt as error:
        problem = str(error)
    except Exception as error:
        problem = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return _result(architecture, model_class, problem, steps)


def _result(architecture: Architecture, model_class: str, problem: str, steps: list[workloads.Step]) -> Measured:
    times: dict[str, float] = defaultdict(float)
    ops: dict[str, dict[str, None]] = defaultdict(dict)
    totals = []
    for step in steps:
        total = 0.0
        for kernel in kernels_of(step.calls, step.name):
            spent = _spent(kernel) * step.count
            total += spent
            if kernel.task:
                times[kernel.task] += spent
                ops[kernel.task].update(dict.fromkeys(kernel.ops))
        totals.append(StepTime(name=step.name, count=step.count, seconds=total))
    tasks = set(times)
    image_net = "conv2d_nhwc" in tasks and not any("attention" in task for task in tasks)
    return Measured(
        transformers=metadata.version("transformers"), name=architecture.name, model_type=architecture.model_type, model_class=model_class,
        problem=problem, steps=tuple(totals),
        category=category_of(architecture.name, architecture.model_type, tasks, image_net),
        seconds=dict(sorted(times.items(), key=lambda item: -item[1])), ops={task: tuple(sorted(ops[task])) for task in sorted(ops)},
    )


def _spent(kernel: Kernel) -> float:
    return seconds(kernel.bytes, kernel.flops, kernel.dtype) * kernel.weight


def prepare() -> None:
    """Make this process quiet and small."""
    import transformers

    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)


def serve(architecture: Architecture, connection: Connection) -> None:
    """Entry of the process: measures and sends the result as JSON."""
    gc.disable()  # a short life
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    connection.send_bytes(msgspec.json.encode(measure(architecture)))
    connection.close()
