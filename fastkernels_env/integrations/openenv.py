"""The tasks behind an OpenEnv server: `reset` chooses a row, every `step` submits a reply, which is paid its own score.

All sessions share one grader, and steps are asynchronous: while a kernel is judged, the server answers other sessions and the pings of
this one. A client waits no longer than its own ``message_timeout_s`` (60 s unless told); give it more than the grader's deadline.
"""

from __future__ import annotations

import functools
import random
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from .. import dataset
from ..types import Context
from .grader import Graded, Grader

try:
    from fastapi import FastAPI
    from openenv.core.env_server import Action, Environment, Observation, State, create_fastapi_app
except ImportError as error:
    raise ImportError("fastkernels_env.integrations.openenv needs OpenEnv: pip install 'fastkernels-env[openenv]'") from error


class KernelAction(Action):
    """A reply as the model wrote it, with the kernel in a fenced block."""

    text: str


class KernelObservation(Observation):
    """`reward` is None after `reset`, and after a fault, which is not the reply's: repeat the step. `metrics` are `Graded.metrics`."""

    prompt: str
    feedback: str = ""
    outcome: str = ""
    metrics: dict[str, float] = {}  # noqa: RUF012 -- pydantic copies it


class KernelEnvironment(Environment[KernelAction, KernelObservation, State]):
    """One session of so many turns. `splits` has rows of `fastkernels_env.rows` by split; `state` names the episode, its turns and task."""

    SUPPORTS_CONCURRENT_SESSIONS = True
    state = State()

    def __init__(self, grader: Grader, splits: Mapping[str, Sequence[Mapping[str, Any]]], turns: int) -> None:
        super().__init__()
        self._grader, self._splits, self._turns = grader, splits, turns
        self._row: Mapping[str, Any] = {}
        self.state = State(step_count=turns)

    def reset(self, seed: int | None = None, episode_id: str | None = None, **options: Any) -> KernelObservation:
        """Begin an episode with the row of the options ``split`` and ``index``; without them with one of ``train`` that `seed` draws."""
        split, index = options.pop("split", "train"), options.pop("index", None)
        rows = self._splits.get(split, ())
        if options or not rows or index not in (None, *range(len(rows))):
            known = ", ".join(f"{name} ({len(rows)} rows)" for name, rows in self._splits.items())
            raise ValueError(f"expected seed, episode_id, and split and index of a row in {known}, got {options or (split, index)}")
        self._row = random.Random(seed).choice(rows) if index is None else rows[index]
        self.state = State(episode_id=episode_id or uuid.uuid4().hex, task=self._row["task"])
        return KernelObservation(prompt=self._row["prompt_text"])

    def step(self, action: KernelAction, timeout_s: float | None = None, **_: Any) -> KernelObservation:
        """Submit a reply and wait. The grader has a deadline, so `timeout_s` is not heeded."""
        return self._settle(self._grader.grade_sync(**self._asked(action)))

    async def step_async(self, action: KernelAction, timeout_s: float | None = None, **_: Any) -> KernelObservation:
        """`step` for the server."""
        return self._settle(await self._grader.grade(**self._asked(action)))

    def _asked(self, action: KernelAction) -> dict[str, Any]:
        if self.state.step_count >= self._turns:
            raise ValueError("expected a running episode, this one has not begun or has ended; call reset first")
        context = Context(episode=self.state.episode_id or "", turn=self.state.step_count)
        return {"task": self._row["task"], "text": action.text, "prompt_hash": self._row["prompt_hash"], "context": context}

    def _settle(self, graded: Graded) -> KernelObservation:
        self.state.step_count += graded.valid
        observation = KernelObservation(prompt=self._row["prompt_text"], feedback=graded.feedback, outcome=graded.outcome)
        observation.metrics, observation.reward, observation.done = graded.metrics, graded.score, self.state.step_count >= self._turns
        return observation

    def list_splits(self) -> list[dict[str, str]]:
        """The splits, and what OpenEnv calls the like."""
        return [{"name": name, "type": "train" if name == "train" else "test"} for name in self._splits]

    def num_tasks(self, split: str) -> int:
        """The number of rows."""
        return len(self._splits[split])

    def get_task(self, split: str, index: int) -> Mapping[str, Any]:
        """One row."""
        return self._splits[split][index]


def make_app(grader: Grader, *, turns: int = 1, sessions: int = 256, **choice: Any) -> FastAPI:
    """A server for uvicorn, of so many sessions at a time, each of so many turns. `choice` goes to `fastkernels_env.rows`."""
    make = functools.partial(KernelEnvironment, grader, {split: dataset.rows(split, **choice) for split in ("train", "heldout")}, turns)
    return create_fastapi_app(make, KernelAction, KernelObservation, max_concurrent_envs=sessions, env_name="fastkernels")
