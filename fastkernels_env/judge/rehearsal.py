"""Make a host's provisions: let the compile stack do with a baseline, in a trusted worker, what it will do around every submission."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from ..checks import CheckList
from ..provisions import pack
from ..task import Baseline, Task
from ..types import Artifact, Language
from . import stack
from .baselines import load_request
from .effort import get_effort
from .errors import JudgeFault, StepFailed, WorkerError
from .rig import STACK_SECONDS, Rig
from .scope import Scope

if TYPE_CHECKING:
    from .judge import Judge

_SEED = 1


def provide(judge: Judge, task: Task | None = None, force: bool = False) -> None:
    """Keep what the compile stack compiles around an operator, if the host has not got it yet; workers that start later are given it.

    Args:
        judge: Of a GPU; elsewhere the stack compiles nothing that takes long.
        task: Whose operator; None for what it compiles around any.
        force: Also if the host has it.

    Raises:
        JudgeFault: No worker could be started, or the compile stack of this host cannot be used.
    """
    name = task.folder.name if task else ""
    if judge.device.kind != "cuda" or (judge.host.provisions.has(name) and not force):
        return
    if task is None:
        judge.host.provisions.add(name, _first_graph(judge))
        return
    plain = [one for one in task.baselines if not one.compile and judge.device.kind in one.devices]
    for baseline in sorted(plain, key=lambda one: bool(one.requires)):  # one that needs no package may be the simplest
        with contextlib.suppress(WorkerError, StepFailed):
            if content := _graph_around(judge, task, baseline):
                judge.host.provisions.add(name, content)
                return


def _first_graph(judge: Judge) -> bytes:
    session = judge.host.spawn(trusted=True, stack=True, own_caches=True)
    try:
        session.watch(True, STACK_SECONDS)
        return pack(session.scratch)
    except (WorkerError, StepFailed) as error:
        raise JudgeFault(f"the compile stack of this host cannot be used: {error.summary}") from None
    finally:
        session.close()


def _graph_around(judge: Judge, task: Task, baseline: Baseline) -> bytes:
    """What the check `opaque_graph` leaves in the caches; nothing where this baseline does not pass it."""
    load = load_request(task, baseline)
    artifact = Artifact(
        path=load.path, language=Language.PYTHON, entry=load.entry, has_prepare=load.has_prepare, has_plan=load.has_plan
    )
    rig = Rig(Scope(judge, task, _SEED, get_effort("quick"), CheckList(judge.device.kind)), artifact)
    session = judge.host.spawn(task, trusted=True, stack=True, own_caches=True)
    try:
        session.watch(True, STACK_SECONDS)
        rig.open(session)
        return b"" if rig.wrong_eagerly or stack.check_opaque(rig) else pack(session.scratch)
    finally:
        session.close()
        rig.close()
