"""What the stages of one evaluation share."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..checks import CheckList
from ..ops import program_source
from ..protocol import Load
from ..task import Task, Workload
from ..types import Artifact
from .effort import Effort

if TYPE_CHECKING:
    from .judge import Judge

LOAD_SECONDS = 20.0
FIRST_CALL_SECONDS = 12.0
"""The first call compiles what is compiled just in time."""
CALL_SECONDS = 12.0
INTERPRETED_SECONDS = 120.0
AHEAD_SECONDS = 60.0


class Scope(NamedTuple):
    """One evaluation: who judges what, with which seed, how thoroughly, and the checks that fill up on the way.

    Attributes:
        judge: Owns device, workers, baselines.
        task: The task.
        seed: The evaluation's seed; every stage derives its own from it.
        effort: Amounts.
        checks: Filled as stages run.
        interpreted: Whether kernels run in Triton's interpreter.
    """

    judge: Judge
    task: Task
    seed: int
    effort: Effort
    checks: CheckList
    interpreted: bool = False

    @property
    def kind(self) -> str:
        """Device kind."""
        return self.judge.device.kind

    @property
    def call_seconds(self) -> float:
        """Deadline of a request that runs calls."""
        return INTERPRETED_SECONDS if self.interpreted else CALL_SECONDS

    def public_workloads(self) -> list[Workload]:
        """The public workloads that this evaluation verifies and times."""
        quick = self.interpreted or not self.effort.all_public
        return [self.task.smoke_workload(self.kind)] if quick else self.task.workloads(self.kind)

    def load_request(self, artifact: Artifact) -> Load:
        """What a worker needs to load the submission."""
        signature = self.task.entry_signature
        return Load(
            artifact.path, artifact.language.value, artifact.entry, tuple(arg.name for arg in signature),
            tuple(arg.role.value for arg in signature), artifact.has_prepare, artifact.has_plan, interpret=self.interpreted,
            ops=artifact.ops, program=program_source(self.task) if artifact.ops else "",
        )
