"""For TRL's `GRPOTrainer`: a reward function, and an environment whose one tool submits a kernel. Needs no import of TRL."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ..reward.credit import Turn, improvement
from ..types import Context, Item, Outcome
from .grader import Graded, Grader, mean_metrics

Rewards = list[float | None]


def reward_function(grader: Grader, *, run: str = "") -> Callable[..., Awaitable[Rewards]]:
    """A function for ``reward_funcs``, where the data set's rows have a column ``task``, as those of `rows`.

    It is asynchronous, so TRL runs it beside others. A fault has the reward None, which TRL leaves out of the group. The means of all
    metrics of `Graded` are logged under their names; outcomes, reward parts and speedups also as columns of the completions table.

    Args:
        grader: Judges and scores.
        run: Recorded with every evaluation; the group is the training step and the task.
    """

    async def kernel_reward(
        prompts: Sequence[Any], completions: Sequence[Any], task: Sequence[str], prompt_hash: Sequence[str] = (), trainer_state: Any = None,
        log_extra: Any = None, log_metric: Any = None, **columns: Any,
    ) -> Rewards:
        step, hashes = int(getattr(trainer_state, "global_step", 0)), prompt_hash or [""] * len(task)
        graded = await grader.grade_many([
            Item(task=name, text=_text(completion), prompt_hash=known, context=Context(run=run, policy_step=step, group=f"{step}-{name}"))
            for completion, name, known in zip(completions, task, hashes, strict=True)
        ])
        _tell(graded, log_extra, log_metric)
        return [one.score for one in graded]

    return kernel_reward


def _text(completion: Any) -> str:
    """The reply; of a conversation, what the model said last."""
    if isinstance(completion, str):
        return completion
    said = next((message.get("content") or "" for message in reversed(completion) if message.get("role") == "assistant"), "")
    return said if isinstance(said, str) else "".join(str(block.get("text", "")) for block in said)


def _tell(graded: Sequence[Graded], log_extra: Any, log_metric: Any) -> None:
    for name, value in mean_metrics(graded).items() if log_metric else ():
        log_metric(name, value)
    if log_extra and graded:
        log_extra("outcome", [one.outcome for one in graded])
        for name in [name for name in graded[0].metrics if name.startswith(("reward/", "speedup"))]:
            log_extra(name, [one.metrics[name] for one in graded])


class KernelEnvironment:
    """For ``environment_factory=lambda: KernelEnvironment(grader)``: the model submits kernels with a tool and reads what became of them.

    A rollout's reward is that of an episode of `KernelEnv`: its best score, and every `tampered` in full. Without a submission it is that
    of an empty reply; where every evaluation was a fault it is None. TRL uses these objects again and again: `reset` forgets everything.
    """

    def __init__(self, grader: Grader, *, run: str = "") -> None:
        self._grader, self._run = grader, run
        self.reset()

    def reset(self, task: str = "", prompt_hash: str = "", **row: Any) -> None:
        """Begin a rollout of a row of the data set."""
        self._task, self._prompt_hash, self._episode = task, prompt_hash, uuid.uuid4().hex
        self.graded: list[Graded] = []

    async def submit_kernel(self, code: str) -> str:
        """Build, verify and time a kernel, and say what became of it.

        Args:
            code: The complete source code, in one fenced code block that names its language.

        Returns:
            What was wrong with it, or how fast it is.
        """
        context = Context(run=self._run, episode=self._episode, turn=len(self.graded))
        self.graded.append(await self._grader.grade(self._task, code, context=context, prompt_hash=self._prompt_hash))
        return self.graded[-1].feedback

    async def get_reward(self) -> float | None:
        """The reward of the rollout."""
        if not self.graded:
            await self.submit_kernel("")
        turns = [Turn(one.score, one.outcome == Outcome.TAMPERED) for one in self.graded if one.score is not None]
        return sum(improvement(turns)) if turns else None


def log_parts(environments: Sequence[KernelEnvironment], log_extra: Any = None, log_metric: Any = None, **columns: Any) -> Rewards:
    """A function for ``reward_funcs`` beside `KernelEnvironment`: pays nothing, logs each rollout's last submission, by part."""
    last = [environment.graded[-1] for environment in environments if environment.graded]
    _tell(last, log_extra if len(last) == len(environments) else None, log_metric)
    return [0.0 if any(one.valid for one in environment.graded) else None for environment in environments]
