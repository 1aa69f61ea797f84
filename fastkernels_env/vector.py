"""Several environments, of one task or of several, over one shared evaluator, as a Gymnasium vector environment."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from concurrent.futures import wait
from pathlib import Path
from typing import Any, cast

import numpy as np
from gymnasium.error import ClosedEnvironmentError, InvalidAction
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array

from .device import resolve
from .env import EvaluationFault, Info, KernelEnv, Observation, RewardLike, open_evaluator
from .evaluator import Evaluator
from .pool.pool import count_judges
from .types import Evaluation

Batch = dict[str, Any]
EXECUTORS = ("local", "ray")


class KernelVectorEnv(VectorEnv[Batch, Sequence[str], np.ndarray]):
    """`num_envs` environments, whose replies are judged side by side, by several judges of one device.

    Episodes restart within the step that ends them (`SAME_STEP`): with Gymnasium's default, every second reply of a single-turn
    task would be swallowed by a reset. The last observation and info of an episode are in ``infos["final_obs"]`` and
    ``infos["final_info"]``.

    A fault of the judge ends the episode it happened in: reward 0.0, truncated, and ``valid`` False in its final info, so that the
    sample can be dropped. The other environments go on.

    Args:
        task: Name of the task, or several names, which the environments have in turn.
        num_envs: Number of environments.
        device: ``auto``, ``cpu`` or ``cuda``.
        reward: As for `KernelEnv`.
        max_turns: Turns of an episode.
        credit: ``improvement`` or ``raw``.
        effort: ``full`` or ``quick``.
        log: JSONL file to which every evaluation is appended.
        render_mode: As for `KernelEnv`; with ``human`` the reports of a step are printed in the order of the environments.
        evaluator: Use this one, and leave it open at `close`.
        judges: As for `Evaluator`; None: as many as cores and memory allow, but no more than environments.
        executor: ``local``, or ``ray`` for a `Fleet` on the cluster of ``RAY_ADDRESS`` (without it, on one of this host).

    Raises:
        ValueError: Fewer than one environment, or no task; and whatever `KernelEnv` raises.
    """

    metadata = {  # noqa: RUF012 -- Gymnasium reads it from the class
        "render_modes": ["ansi", "human"],
        "render_fps": 1,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self,
        task: str | Sequence[str],
        num_envs: int = 1,
        *,
        device: str = "auto",
        reward: RewardLike = "production",
        max_turns: int = 1,
        credit: str = "improvement",
        effort: str = "full",
        log: str | Path | None = None,
        render_mode: str | None = None,
        evaluator: Evaluator | None = None,
        judges: int | str | None = None,
        executor: str = "local",
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"expected num_envs of at least 1, got {num_envs!r}")
        names = [task] if isinstance(task, str) else list(task)
        if not names:
            raise ValueError("expected the name of a task, or of several, got none")
        if executor not in EXECUTORS:
            raise ValueError(f"expected executor to be one of {', '.join(map(repr, EXECUTORS))}, got {executor!r}")
        if evaluator is not None and executor == "ray":
            raise ValueError("expected no executor beside a given evaluator, which has its own, got 'ray'")
        self._owns_evaluator = evaluator is None
        if executor == "ray":
            from .fleet import Fleet

            self.evaluator: Evaluator = Fleet(device=device, log=log, judges="auto" if judges is None else judges)
        else:
            if evaluator is None and judges is None:
                judges = min(num_envs, count_judges("auto", resolve(device)))
            self.evaluator = open_evaluator(evaluator, device, log, judges)
        shared = self.evaluator
        self.envs = [
            KernelEnv(
                names[index % len(names)], reward=reward, max_turns=max_turns, credit=credit, effort=effort, render_mode=render_mode,
                evaluator=shared,
            )
            for index in range(num_envs)
        ]
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.single_action_space = self.envs[0].action_space
        self.single_observation_space = self.envs[0].observation_space
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._observations: list[Observation] = [{} for _ in self.envs]

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Batch, dict[str, Any]]:
        """Start episodes.

        Args:
            seed: None, one seed (environment `i` gets ``seed + i``), or one per environment.
            options: As for `KernelEnv`; and ``reset_mask``, a bool array ``[num_envs]`` of the environments to reset.

        Raises:
            ValueError: Not one seed per environment, or a mask that is no bool array of that shape.
        """
        options = dict(options or {})
        mask = self._mask(options.pop("reset_mask", None))
        infos: dict[str, Any] = {}
        for index, (env, one) in enumerate(zip(self.envs, self._seeds(seed), strict=True)):
            if mask[index]:
                self._observations[index], info = env.reset(seed=one, options=options)
                infos = self._add_info(infos, info, index)
        return self._batch(), infos

    def step(self, actions: Sequence[str]) -> tuple[Batch, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Judge one reply per environment, all at once.

        Raises:
            InvalidAction: Not one text per environment. Nothing has been judged then.
            ResetNeeded: `reset` was never called.
        """
        self._check_actions(actions)
        evaluations = self._judge([env.request(action) for env, action in zip(self.envs, actions, strict=True)])
        rewards = np.zeros(self.num_envs, dtype=np.float64)
        ends = np.zeros((2, self.num_envs), dtype=np.bool_)
        infos: dict[str, Any] = {}
        for index, (env, evaluation) in enumerate(zip(self.envs, evaluations, strict=True)):
            observation, rewards[index], ends[0, index], ends[1, index], info = _settle(env, evaluation)
            if ends[:, index].any():
                infos = self._add_info(infos, {"final_obs": observation, "final_info": info}, index)
                observation, info = env.reset()
            self._observations[index] = observation
            infos = self._add_info(infos, info, index)
        return self._batch(), rewards, ends[0].copy(), ends[1].copy(), infos

    def _judge(self, requests: list[dict[str, Any]]) -> list[Evaluation]:
        """The answers to all requests, in order; what goes wrong is raised once every one of them has ended."""
        if not self.evaluator.judges:
            return [self.evaluator.evaluate(**request) for request in requests]
        futures = [self.evaluator.submit(**request) for request in requests]
        try:
            wait(futures)
        except BaseException:
            for future in futures:
                future.cancel()
            raise
        return [future.result() for future in futures]

    def render(self) -> tuple[str | None, ...]:  # type: ignore[override]
        """Each environment's report; None where there is none to return."""
        return tuple(env.render() for env in self.envs)

    def close_extras(self, **kwargs: Any) -> None:
        """Close the environments, and the evaluator if this object opened it."""
        for env in self.envs:
            env.close()
        if self._owns_evaluator:
            self.evaluator.close()

    def _batch(self) -> Batch:
        empty = cast(Batch, create_empty_array(self.single_observation_space, n=self.num_envs, fn=np.zeros))
        return cast(Batch, concatenate(self.single_observation_space, self._observations, empty))

    def _seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        if seed is None or isinstance(seed, int):
            return [None if seed is None else seed + index for index in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"expected one seed per environment, {self.num_envs}, got {len(seed)}")
        return list(seed)

    def _mask(self, mask: Any) -> np.ndarray:
        if mask is None:
            return np.ones(self.num_envs, dtype=np.bool_)
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(f"expected reset_mask to be a bool array of shape ({self.num_envs},) with a True in it, got {mask!r}")
        return mask

    def _check_actions(self, actions: Sequence[str]) -> None:
        if self.closed:
            raise ClosedEnvironmentError("expected an open environment, this one is closed; make a new one")
        texts = not isinstance(actions, str) and all(isinstance(action, str) for action in actions)
        if not texts or len(actions) != self.num_envs:
            raise InvalidAction(f"expected a sequence of {self.num_envs} replies as text, got {reprlib.repr(actions)}")


def _settle(env: KernelEnv, evaluation: Evaluation) -> tuple[Observation, float, bool, bool, Info]:
    try:
        return env.settle(evaluation)
    except EvaluationFault as fault:
        return fault.observation, 0.0, False, True, fault.info
