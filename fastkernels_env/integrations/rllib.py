"""A smoke use of RLlib, which has no encoder for text: the action is a number, of one of a finite list of replies.

Nothing of RLlib is imported: it takes any Gymnasium environment. RLlib 2.60 pins gymnasium 1.2.2, so it needs an environment of its own.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from ..registry import load_task
from .grader import Graded, Grader

Observation = np.ndarray[Any, np.dtype[np.float32]]


class ReplyEnv(gymnasium.Env[Observation, np.int64]):
    """Choose one of several replies to a task; be paid its score. Every episode is one step.

    Each distinct reply is judged once per process, when it is first chosen; every environment of the process with the same settings
    knows it then. A fault raises and is not remembered: with ``restart_failed_sub_environments`` RLlib drops the episode and goes on.

    Args:
        config: What RLlib passes as ``env_config``: ``task`` (a name), ``replies`` (texts), and any keyword argument of `Grader` but
            ``evaluator``.

    Raises:
        TaskError: There is no such task.
        ValueError: A setting is missing or unknown, or there is no reply.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        settings = dict(config)
        try:
            self._task, self._replies = str(settings.pop("task")), tuple(map(str, settings.pop("replies")))
            self._table = _table(**settings)
        except KeyError as missing:
            raise ValueError(f"expected env_config to have 'task' and 'replies', got no {missing}") from None
        except TypeError as error:
            raise ValueError(f"expected env_config to hold task, replies and arguments of Grader that can be hashed: {error}") from None
        if not self._replies:
            raise ValueError("expected at least one reply in env_config['replies'], got none")
        load_task(self._task)
        self.action_space = Discrete(len(self._replies))
        self.observation_space = Box(0.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        """Start an episode. The observation is a constant: there is one state."""
        super().reset(seed=seed)
        return np.ones(1, np.float32), {}

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Submit the reply of that number.

        Returns:
            As Gymnasium's; ``info`` has ``outcome``, ``feedback`` and the grader's metrics.

        Raises:
            EvaluationFault: The evaluation failed, not the reply.
        """
        graded = self._table.look_up(self._task, self._replies[int(action)])
        info = {"outcome": graded.outcome, "feedback": graded.feedback, **graded.metrics}
        if graded.score is None:
            from ..env import EvaluationFault

            raise EvaluationFault(graded.evaluation, {}, info)
        return np.ones(1, np.float32), graded.score, True, False, info


class _Table:
    """What is known about replies, and the grader that finds out."""

    def __init__(self, **settings: Any) -> None:
        self._grader = Grader(**settings)
        self._known: dict[tuple[str, str], Graded] = {}
        self._lock = threading.Lock()

    def look_up(self, task: str, text: str) -> Graded:
        with self._lock:
            if (task, text) not in self._known:
                graded = self._grader.grade_sync(task, text)
                if not graded.valid:
                    return graded
                self._known[task, text] = graded
            return self._known[task, text]


@functools.cache
def _table(**settings: Any) -> _Table:
    return _Table(**settings)
