"""Gymnasium ids: one per known task. Imports neither torch nor a task's code."""

from __future__ import annotations

import warnings

import gymnasium
from gymnasium.error import Error

from .registry import task_folders

NAMESPACE = "FastKernels"


def env_id(task: str) -> str:
    """The Gymnasium id of a task."""
    return f"{NAMESPACE}/{task}-v0"


def register_envs() -> None:
    """Register every known task that is not registered yet.

    There is no ``max_episode_steps``: the environment ends its episodes itself, after ``max_turns``.

    Warns:
        UserWarning: A task's folder has a name that Gymnasium does not accept; the task is left out.
    """
    for task in task_folders():
        if env_id(task) in gymnasium.registry:
            continue
        try:
            gymnasium.register(
                env_id(task),
                entry_point="fastkernels_env.env:KernelEnv",
                vector_entry_point="fastkernels_env.vector:KernelVectorEnv",
                nondeterministic=True,
                kwargs={"task": task},
            )
        except Error as error:
            warnings.warn(f"the task {task!r} gets no Gymnasium id, rename its folder: {error}")
