"""One kernel task as a Gymnasium environment: the action is a reply with source code, the reward is its worth."""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import gymnasium
import msgspec
import numpy as np
from gymnasium.error import ClosedEnvironmentError, InvalidAction, ResetNeeded
from gymnasium.spaces import Box, Dict, Discrete

from .evaluator import Evaluator
from .prompt import build_prompt, prompt_hash
from .registry import load_task, with_workloads
from .report import evaluation_json, plain_report
from .reward import load_preset
from .spaces import SourceText, seed_replies
from .submission import MAX_CHARS
from .types import Context, Evaluation, Outcome, Reward, Stage

CREDITS = ("improvement", "raw")
EFFORTS = ("full", "quick")
_CONTEXT_OPTIONS = {"run": str, "episode": str, "group": str, "policy_step": int}
_UNKNOWN_BOUNDS = (-1e6, 1e6)

Observation = dict[str, Any]
Info = dict[str, Any]


class Scorer(Protocol):
    """What turns a record into a reward; presets do."""

    @property
    def name(self) -> str:
        """Under which the reward is recorded."""

    @property
    def part_names(self) -> tuple[str, ...]:
        """Parts that every reward has."""

    def score(self, evaluation: Evaluation) -> Reward:
        """The reward of a record."""


class _Function(NamedTuple):
    """A plain function of a record as a scorer. It has no parts."""

    function: Callable[[Evaluation], float | Reward]
    name: str
    part_names: tuple[str, ...] = ()

    def score(self, evaluation: Evaluation) -> Reward:
        if evaluation.outcome is Outcome.FAULT:
            return Reward(preset=self.name, total=None)
        value = self.function(evaluation)
        return value if isinstance(value, Reward) else Reward(preset=self.name, total=float(value))


RewardLike = str | os.PathLike[str] | Scorer | Callable[[Evaluation], float | Reward]


def as_scorer(reward: RewardLike) -> Scorer:
    """A scorer from a preset's name or path, a preset, or a function of an `Evaluation` (which has no named parts).

    Raises:
        PresetError: No such preset, or its file cannot be used.
        TypeError: None of these.
    """
    if isinstance(reward, str | os.PathLike):
        return cast(Scorer, load_preset(reward))
    if hasattr(reward, "score") and hasattr(reward, "part_names"):
        return cast(Scorer, reward)
    if callable(reward):
        return _Function(reward, getattr(reward, "__name__", type(reward).__name__))
    raise TypeError(f"expected reward to be a preset's name or path, a preset or a function of an Evaluation, got {reward!r}")


class EvaluationFault(Exception):
    """The evaluation failed by a fault that is not the submission's: there is no reward. The step may be repeated.

    Attributes:
        evaluation: The record, with outcome `fault`.
        observation: The environment's observation, which the fault left as it was.
        info: What `step` would have returned as `info`; ``valid`` is False.
    """

    def __init__(self, evaluation: Evaluation, observation: Observation, info: Info) -> None:
        super().__init__(evaluation, observation, info)
        self.evaluation, self.observation, self.info = evaluation, observation, info

    def __str__(self) -> str:
        return f"the evaluation failed, not the submission: {self.evaluation.reason}; repeat the step or drop the sample"


class KernelEnv(gymnasium.Env[Observation, str]):
    """Write a kernel; be paid what it is worth in production.

    ## Action space
    `SourceText`: a language model's reply, up to 65,536 characters. The fenced code block that defines the task's entry is taken
    out of it, built, verified against the oracle and timed against production implementations. A reply without usable code is an
    ordinary evaluation with the outcome `rejected`, and so is one that is too long. `action_space.sample()` draws seed solutions.

    ## Observation space
    `Dict` of ``prompt`` (text, constant), ``feedback`` (text; empty after `reset`), ``turn`` (turns taken) and ``best_score`` (best
    score among this episode's accepted submissions, 0.0 before there is one).

    ## Rewards
    The score of a submission is the total of the reward preset. ``credit="improvement"`` pays a turn what it adds to the best score
    of the episode so far: the first turn its score, a later turn ``max(score - best, 0)``, so that the rewards of an episode sum to
    its best score. `tampered` is always paid in full and never counts as best, so later turns cannot win its penalty back.
    ``credit="raw"`` pays each turn its score.

    ## Starting state
    The prompt, no feedback. `reset` accepts the options ``run``, ``episode``, ``group`` (text) and ``policy_step`` (an integer);
    they are recorded with every evaluation of the episode. ``episode`` is a fresh id unless given.

    ## Episode end
    With ``max_turns=1`` the step terminates the episode. With more turns the episode is truncated at the limit.

    ## Info
    Always the same keys, after `reset` too: ``outcome`` (text), ``valid`` (whether an evaluation without a fault lies behind it),
    ``score``, ``speedup_low``, ``speedup``, ``speedup_high`` (0.0 where nothing was timed), ``reward/<part>`` for each part of the
    preset, ``seconds/<stage>`` for each stage, ``report`` (JSON, as ``fastkernels-env evaluate --json`` prints it).

    ## Version history
    * v0: first release.

    Args:
        task: Name of the task.
        device: ``auto``, ``cpu`` or ``cuda``.
        reward: A preset's name or path, a preset, or a function of an `Evaluation` that returns a float.
        max_turns: Turns of an episode.
        credit: ``improvement`` or ``raw``.
        effort: ``full`` or ``quick``.
        log: JSONL file to which every evaluation is appended.
        render_mode: None; ``ansi``: `render` returns the last evaluation's report; ``human``: each step prints it.
        evaluator: Use this one, and leave it open at `close`; it brings its own device and log.
        workloads: JSONL file of workloads that are judged in place of the task's public ones; see `with_workloads`.

    Raises:
        TaskError: No such task, or a file of workloads that does not fit it.
        DeviceError: The device is unknown or absent.
        PresetError: No such reward preset.
        ValueError: Another argument is out of range; the message says which.
    """

    metadata = {"render_modes": ["ansi", "human"], "render_fps": 1}  # noqa: RUF012 -- Gymnasium reads it from the class

    def __init__(
        self,
        task: str,
        *,
        device: str = "auto",
        reward: RewardLike = "production",
        max_turns: int = 1,
        credit: str = "improvement",
        effort: str = "full",
        log: str | Path | None = None,
        render_mode: str | None = None,
        evaluator: Evaluator | None = None,
        workloads: str | Path | None = None,
    ) -> None:
        _check_choice("credit", credit, CREDITS)
        _check_choice("effort", effort, EFFORTS)
        _check_choice("render_mode", render_mode, (None, *self.metadata["render_modes"]))
        if max_turns < 1:
            raise ValueError(f"expected max_turns of at least 1, got {max_turns!r}")
        task = with_workloads(task, workloads) if workloads is not None else task
        self.task = load_task(task)
        self.scorer = as_scorer(reward)
        self.max_turns, self.credit, self.effort, self.render_mode = max_turns, credit, effort, render_mode
        self.evaluator, self._owns_evaluator = open_evaluator(evaluator, device, log), evaluator is None
        self._name = task
        self._prompt = build_prompt(self.task, self.evaluator.device)
        self._closed = False
        self._running = False
        self._start(Context())
        self.action_space = SourceText(samples=seed_replies(self.task, self.evaluator.device))
        low, high = getattr(self.scorer, "bounds", _UNKNOWN_BOUNDS)
        self.observation_space = Dict(
            prompt=SourceText(),
            feedback=SourceText(),
            turn=Discrete(max_turns + 1),
            best_score=Box(min(low, 0.0), max(high, 0.0), shape=(), dtype=np.float32),
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Info]:
        """Start an episode.

        Args:
            seed: Seeds `np_random`. Inputs of evaluations are drawn from the operating system's entropy all the same.
            options: Ids to record: ``run``, ``episode``, ``group``, ``policy_step``.

        Raises:
            ValueError: An unknown option, or one of the wrong type.
        """
        self._check_open()
        super().reset(seed=seed)
        self._start(_context(options or {}))
        self._running = True
        return self._observation(), self._info()

    def step(self, action: str) -> tuple[Observation, float, bool, bool, Info]:
        """Judge a reply.

        Raises:
            EvaluationFault: The judge failed, not the submission. Nothing changed; the step may be repeated.
            ResetNeeded: The episode has ended, or none has begun.
            InvalidAction: The action is no text.
            ClosedEnvironmentError: The environment is closed.
        """
        return self.settle(self.evaluator.evaluate(**self.request(action)))

    def request(self, action: str) -> dict[str, Any]:
        """The arguments of `Evaluator.evaluate` for a reply; `settle` takes its answer. Raises as `step`."""
        self._check_step(action)
        return {
            "task": self._name, "text": str(action), "effort": self.effort, "context": self._context,
            "prompt_hash": prompt_hash(self._prompt), "rewards": {self.scorer.name: self.scorer},
        }

    def settle(self, evaluation: Evaluation) -> tuple[Observation, float, bool, bool, Info]:
        """The rest of a step whose reply was judged elsewhere.

        Raises:
            EvaluationFault: As `step`.
        """
        reward = evaluation.rewards[self.scorer.name]
        if self.render_mode == "human":
            print(plain_report(evaluation, reward), flush=True)
        if evaluation.outcome is Outcome.FAULT or reward.total is None:
            raise EvaluationFault(evaluation, self._observation(), self._info(evaluation, reward))
        paid = self._credit(evaluation.outcome, reward.total)
        self._advance(evaluation, reward)
        terminated = self.max_turns == 1
        truncated = not terminated and not self._running
        return self._observation(), paid, terminated, truncated, self._info(evaluation, reward)

    def render(self) -> str | None:
        """With ``ansi`` the report of the last evaluation, or that there is none yet; None otherwise: ``human`` prints it in `step`."""
        if self.render_mode is None:
            gymnasium.logger.warn("render() needs a render mode: make the environment with render_mode='ansi' or 'human'")
        if self.render_mode != "ansi":
            return None
        return plain_report(*self._last) if self._last else f"{self._name}: nothing has been evaluated in this episode"

    def close(self) -> None:
        """End the evaluator's processes, if this environment opened it. Closing twice is harmless."""
        self._closed, self._running = True, False
        if self._owns_evaluator:
            self.evaluator.close()

    def _start(self, context: Context) -> None:
        self._context = context
        self._turn = 0
        self._best: float | None = None
        self._accepted: float | None = None
        self._feedback = ""
        self._last: tuple[Evaluation, Reward] | None = None

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedEnvironmentError("expected an open environment, this one is closed; make a new one")

    def _check_step(self, action: object) -> None:
        self._check_open()
        if not self._running:
            raise ResetNeeded("expected a running episode, this one has not begun or has ended; call reset() first")
        if not isinstance(action, str):
            raise InvalidAction(f"expected a reply as text, got {type(action).__name__}")

    def _credit(self, outcome: Outcome, score: float) -> float:
        if self.credit == "raw" or self._best is None or outcome is Outcome.TAMPERED:
            return score
        return max(score - self._best, 0.0)

    def _advance(self, evaluation: Evaluation, reward: Reward) -> None:
        score = float(reward.total or 0.0)
        if evaluation.outcome is not Outcome.TAMPERED:
            self._best = score if self._best is None else max(self._best, score)
        if evaluation.outcome is Outcome.ACCEPTED:
            self._accepted = score if self._accepted is None else max(self._accepted, score)
        self._turn += 1
        self._context = msgspec.structs.replace(self._context, turn=self._turn)
        self._running = self._turn < self.max_turns
        self._feedback = evaluation.feedback[:MAX_CHARS]
        self._last = (evaluation, reward)

    def _observation(self) -> Observation:
        return {
            "prompt": self._prompt,
            "feedback": self._feedback,
            "turn": np.int64(self._turn),
            "best_score": np.array(self._accepted or 0.0, dtype=np.float32),
        }

    def _info(self, evaluation: Evaluation | None = None, reward: Reward | None = None) -> Info:
        speedup = evaluation.speedup if evaluation else None
        parts = reward.parts if reward else {}
        seconds = evaluation.seconds if evaluation else {}
        return {
            "outcome": evaluation.outcome.value if evaluation else "",
            "valid": reward is not None and reward.total is not None,
            "score": _finite(reward.total if reward else None),
            "speedup_low": _finite(speedup.low if speedup else None),
            "speedup": _finite(speedup.estimate if speedup else None),
            "speedup_high": _finite(speedup.high if speedup else None),
            **{f"reward/{name}": _finite(parts.get(name)) for name in self.scorer.part_names},
            **{f"seconds/{stage.value}": _finite(seconds.get(stage.value)) for stage in Stage},
            "report": json.dumps(evaluation_json(evaluation, reward)) if evaluation and reward else "{}",
        }


def open_evaluator(
    evaluator: Evaluator | None, device: str, log: str | Path | None, judges: int | str | None = None
) -> Evaluator:
    """The evaluator that was given, or a new one (which starts no process before its first evaluation).

    Raises:
        ValueError: `device`, `log` or `judges` contradicts the evaluator that was given.
    """
    if evaluator is None:
        return Evaluator(device, log=log, judges=judges)
    if judges is not None:
        raise ValueError(f"expected no judges beside a given evaluator, which has its own, got {judges!r}")
    if device not in ("auto", evaluator.device):
        raise ValueError(f"expected device {evaluator.device!r}, which the given evaluator judges on, got {device!r}")
    if log is not None and Path(log) != evaluator.log:
        raise ValueError(f"expected no log beside a given evaluator, which logs to {evaluator.log}, got {str(log)!r}")
    return evaluator


def _check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise ValueError(f"expected {name} to be one of {', '.join(map(repr, choices))}, got {value!r}")


def _context(options: dict[str, Any]) -> Context:
    for name, value in options.items():
        kind = _CONTEXT_OPTIONS.get(name)
        if kind is None:
            raise ValueError(f"unknown reset option {name!r}; known are: {', '.join(_CONTEXT_OPTIONS)}")
        if not isinstance(value, kind):
            raise ValueError(f"expected reset option {name!r} to be of type {kind.__name__}, got {value!r}")
    return Context(**{"episode": uuid.uuid4().hex, **options})


def _finite(value: float | None) -> float:
    return float(value) if value is not None and math.isfinite(value) else 0.0
