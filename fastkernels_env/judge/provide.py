"""What the provisions of a GPU host are made of: trusted workers compile what every submission's worker would compile for itself.

That is what the compile stack compiles for its own use, and the graphs that the gate puts around the operators of tasks: the operator's
code is no part of them, so that those around a baseline are those around a submission.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from ..checks import CheckList
from ..provisions import pack
from ..types import Artifact, Language
from .baselines import load_request
from .cases import derive_seed
from .effort import EFFORTS
from .errors import JudgeFault, StepFailed, WorkerError
from .rig import Rig
from .scope import LOAD_SECONDS, Scope
from .stack import check_opaque

if TYPE_CHECKING:
    from ..task import Baseline, Task
    from .host import WorkerHost
    from .judge import Judge
    from .session import WorkerSession

_SECONDS = 60.0


def provide(host: WorkerHost, force: bool = False) -> None:
    """Let the compile stack of a GPU host compile in a trusted worker what it compiles in every other, and keep it.

    Args:
        host: Whose cache gets it; on a CPU host the stack compiles nothing that takes long.
        force: Also if the host has it. What it has for tasks is forgotten.

    Raises:
        JudgeFault: No worker could be started, or the compile stack of this host cannot be used.
    """
    if host.device.kind != "cuda" or (host.provisions.present and not force):
        return
    host.provisions.drop()
    session = _start(host)
    try:
        host.provisions.keep(pack(session.scratch))
    finally:
        session.close()


def provide_graph(judge: Judge, task: Task) -> None:
    """Let a trusted worker compile the graph around a task's operator, and keep it with what the host has.

    Args:
        judge: Of a GPU host, where one of the task's uncompiled baselines is up; otherwise nothing is done.
        task: The task. The parts of a program are compiled with a submission's own ops in them: nothing is done for those.

    Raises:
        JudgeFault: No worker could be started, or the compile stack of this host cannot be used.
    """
    if judge.device.kind != "cuda" or task.ops or task.ranks > 1:
        return
    baselines = [contestant.baseline for contestant in judge.contestants(task, compiled=False).values()]
    if not baselines:
        return
    session = _start(judge.host)
    try:
        with contextlib.suppress(WorkerError, StepFailed):  # without it the graph is compiled whenever it is met
            judge.host.provisions.keep(_with_graph(judge, task, baselines[0], session))
    finally:
        session.close()


def _with_graph(judge: Judge, task: Task, baseline: Baseline, session: WorkerSession) -> bytes:
    """The caches of a worker, which ends, after the graph around a baseline has been compiled there.

    Raises:
        WorkerError, StepFailed: The baseline does not run.
    """
    request = load_request(task, baseline)
    artifact = Artifact(
        path=request.path, language=Language.PYTHON, entry=request.entry, has_prepare=request.has_prepare, has_plan=request.has_plan
    )
    session.load(request, LOAD_SECONDS)
    scope = Scope(judge, task, derive_seed(1, "provisions"), EFFORTS["quick"], CheckList(judge.device.kind))
    rig = Rig(scope, artifact)
    try:
        rig.open(session)
        check_opaque(rig)
        return pack(session.scratch)
    finally:
        rig.close()


def _start(host: WorkerHost) -> WorkerSession:
    """A trusted worker with caches of its own, in which the compile stack is ready.

    Raises:
        JudgeFault: It could not be started, or the compile stack of this host cannot be used.
    """
    session = host.spawn(trusted=True, stack=True, own_caches=True)
    try:
        session.watch(True, _SECONDS)
    except (WorkerError, StepFailed) as error:
        session.close()
        raise JudgeFault(f"the compile stack of this host cannot be used: {error.summary}") from None
    return session
