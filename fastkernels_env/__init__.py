"""A Gymnasium library in which the action is kernel source code and the reward is its worth in production.

Importing it registers an environment ``FastKernels/<task>-v0`` per task and imports nothing heavy: torch comes with the first
environment, evaluator or task.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .registration import register_envs

if TYPE_CHECKING:
    from .dataset import rows
    from .env import EvaluationFault
    from .evaluator import Evaluator
    from .log import read_log
    from .prompt import build_prompt
    from .registry import load_task, register_task, with_workloads
    from .reward import load_preset
    from .types import Context, Evaluation, Outcome

    __version__: str

_HOMES = {
    "Context": "types",
    "Evaluation": "types",
    "EvaluationFault": "env",
    "Evaluator": "evaluator",
    "Outcome": "types",
    "build_prompt": "prompt",
    "load_preset": "reward",
    "load_task": "registry",
    "read_log": "log",
    "register_task": "registry",
    "rows": "dataset",
    "with_workloads": "registry",
}

__all__ = [
    "Context",
    "Evaluation",
    "EvaluationFault",
    "Evaluator",
    "Outcome",
    "__version__",
    "build_prompt",
    "load_preset",
    "load_task",
    "read_log",
    "register_envs",
    "register_task",
    "rows",
    "with_workloads",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("fastkernels-env")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_envs()
