"""Tasks and libraries for one module: a native library whose bug is chosen by an argument, so that one compilation tries them all."""

from __future__ import annotations

import contextlib
import textwrap

import pytest

from fastkernels_env.build import Build
from fastkernels_env.protocol import Load
from fastkernels_env.submission import extract


@pytest.fixture(scope="module")
def built(evaluator):
    """Compiles a source for a task; returns the request that loads it."""
    with contextlib.ExitStack() as stack:

        def compile_source(task, source):
            build = stack.enter_context(Build(extract(f"```cpp\n{textwrap.dedent(source)}\n```", task, "cpu")))
            names, roles = tuple(arg.name for arg in task.signature), tuple(arg.role.value for arg in task.signature)
            artifact = build.result()
            return Load(artifact.path, "cpp", artifact.entry, names, roles, False, False)

        yield compile_source


@pytest.fixture
def on_worker(evaluator):
    """Calls a function with a fresh worker that has a library loaded and an arena attached: `function(session, arena, device)`."""
    judge = evaluator.open()
    with contextlib.ExitStack() as stack:

        def run(library, nbytes, function):
            session = stack.enter_context(contextlib.closing(judge.host.spawn()))
            arena = stack.enter_context(contextlib.closing(judge.device.allocate(nbytes)))
            session.load(library, 20.0)
            session.attach(arena)
            return function(session, arena, judge.device)

        yield run
