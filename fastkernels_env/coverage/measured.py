"""What is known of an architecture after it was run."""

from __future__ import annotations

import msgspec


class StepTime(msgspec.Struct, kw_only=True, frozen=True):
    """A step of a workload and its modelled device time, in seconds, over all its runs."""

    name: str
    count: int
    seconds: float


class Measured(msgspec.Struct, kw_only=True, frozen=True):
    """What became of an architecture."""

    name: str
    model_type: str
    category: str
    transformers: str = ""
    """Version of transformers."""
    model_class: str = ""
    problem: str = ""
    """Why it could not be built, or not all of it be run; empty if nothing is missing."""
    steps: tuple[StepTime, ...] = ()
    seconds: dict[str, float] = {}
    """Modelled device time by task, in seconds."""
    ops: dict[str, tuple[str, ...]] = {}
    """Operators by task."""
