"""The tasks as a taskset of verifiers 0.4, for its commands and for trainers that load tasksets.

verifiers finds a taskset by the name of a top-level module. A user writes one of two lines: ``from fastkernels_env.integrations.verifiers
import KernelTaskset``, ``__all__ = ["KernelTaskset"]``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import msgspec

from ..dataset import rows
from ..device import resolve
from ..registry import load_task
from ..reward import load_preset
from ..spaces import seed_replies
from ..types import Context, Evaluation, to_dict
from .grader import Grader

try:
    import verifiers.v1 as vf
except ImportError as error:
    raise ImportError("fastkernels_env.integrations.verifiers needs verifiers: pip install 'fastkernels-env[verifiers]'") from error


class GraderConfig(vf.BaseConfig):
    """Arguments of `Grader`. All tasks of a process with the same ones share a grader."""

    device: str = "auto"
    reward: str = "production"
    effort: str = "quick"
    log: str | None = None
    judges: int | None = None
    deadline: float | None = None


class KernelTaskConfig(vf.TaskConfig):
    """How replies are judged."""

    grader: GraderConfig = GraderConfig()


class KernelTasksetConfig(vf.TasksetConfig):
    """Which of the rows of `fastkernels_env.rows` there are."""

    split: str = "train"
    tasks: list[str] | None = None
    task: KernelTaskConfig = KernelTaskConfig()


class KernelData(vf.TaskData):
    """A row. `id` is the name to judge a reply for."""

    prompt_hash: str


class KernelTask(vf.Task[KernelData, vf.State, KernelTaskConfig]):
    """Write a kernel in one reply. The record of its evaluation stays in the trace, so that ``vf-replay`` needs no device."""

    async def validate(self, runtime: vf.Runtime) -> bool:
        """Whether the task's seed solution is accepted."""
        seed = seed_replies(load_task(self.data.id), resolve(self.config.grader.device))[0]
        return (await _grader(**self.config.grader.model_dump()).grade(self.data.id, seed)).outcome == "accepted"

    @vf.metric
    async def measured(self, trace: vf.Trace) -> dict[str, float]:
        """Speedups, seconds by stage, and the outcome as zeros and a one. A fault fails the trace, which trainers drop."""
        if "evaluation" not in trace.info:
            grader, context = _grader(**self.config.grader.model_dump()), Context(episode=trace.id)
            graded = await grader.grade(self.data.id, trace.last_reply, context=context, prompt_hash=self.data.prompt_hash)
            if not graded.valid:
                raise RuntimeError(f"the evaluation failed, not the reply: {graded.evaluation.reason}")
            measured = {name: value for name, value in graded.metrics.items() if not name.startswith("reward/")}
            trace.info.update(measured=measured, evaluation=to_dict(graded.evaluation))
        return dict(trace.info["measured"])

    @vf.reward
    async def parts(self, trace: vf.Trace) -> dict[str, float]:
        """The parts of the reward, which sum to its total: a pure function of the record that `measured` left."""
        return load_preset(self.config.grader.reward).score(msgspec.convert(trace.info["evaluation"], Evaluation)).parts


class KernelTaskset(vf.Taskset[KernelTask, KernelTasksetConfig]):
    """One task per row."""

    def load(self) -> Iterator[KernelTask]:
        """The rows of the split as tasks."""
        config = self.config
        chosen = rows(config.split, device=config.task.grader.device, tasks=config.tasks)
        if not chosen:
            raise ValueError(f"expected tasks with rows in split {config.split!r}, got {config.tasks}; try split 'all'")
        for row in chosen:
            yield KernelTask(KernelData(id=row["task"], prompt=row["prompt_text"], prompt_hash=row["prompt_hash"]), config.task)


_grader = functools.cache(Grader)
