"""For verl: a reward function that its reward manager loads, and rows for its data set. Needs no import of verl.

In verl's configuration::

    reward.num_workers=1
    reward.custom_reward_function.path=pkg://fastkernels_env.integrations.verl
    reward.custom_reward_function.name=compute_score
    +reward.custom_reward_function.reward_kwargs.log=rollouts.jsonl

One worker is enough, since it waits for no reply; each worker would have judges of its own.
"""

from __future__ import annotations

import threading
from typing import Any

from ..dataset import rows
from ..types import Context
from .grader import Grader

DATA_SOURCE = "fastkernels_env"
_graders: dict[str, Grader] = {}
_lock = threading.Lock()


async def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any] | None = None, *, fault_score: float = 0.0,
    run: str = "", **settings: Any,
) -> dict[str, float | str]:
    """The score of a reply, with its parts.

    Args:
        data_source: Not looked at.
        solution_str: The reply.
        ground_truth: Name of the task, as `verl_rows` gives it.
        extra_info: Its ``prompt_hash`` is recorded, if it has one.
        fault_score: verl has no way to drop a sample, so an evaluation that failed without the reply being at fault gets this; ``valid``
            tells such samples apart.
        run: Recorded with every evaluation.
        settings: As for `Grader`: ``reward``, ``device``, ``effort``, ``log``, ``judges``, ``deadline``. Verl passes its own, too, to
            functions that ask a reward model; they are not looked at.

    Returns:
        ``score``, ``valid`` (1.0 or 0.0), ``outcome``, and every metric of `Graded`: always the same keys.

    Raises:
        TaskError: There is no such task.
    """
    prompt_hash = str((extra_info or {}).get("prompt_hash", ""))
    graded = await _grader(settings).grade(ground_truth, solution_str, context=Context(run=run), prompt_hash=prompt_hash)
    score = fault_score if graded.score is None else graded.score
    return {"score": score, "valid": float(graded.valid), "outcome": graded.outcome, **graded.metrics}


def _grader(settings: dict[str, Any]) -> Grader:
    """One for every choice of settings in this process."""
    own = {name: value for name, value in settings.items() if name not in ("reward_router_address", "reward_model_tokenizer")}
    with _lock:
        key = repr(sorted(own.items()))
        if key not in _graders:
            _graders[key] = Grader(**own)
        return _graders[key]


def verl_rows(split: str = "train", **choices: Any) -> list[dict[str, Any]]:
    """`rows` in the columns that verl's data set has; write them to a Parquet file.

    Args:
        split: As for `rows`.
        choices: As for `rows`.

    Returns:
        Rows with ``data_source``, ``prompt`` (chat messages), ``ability``, ``reward_model`` (its ``ground_truth`` is the task's name) and
        ``extra_info`` (``index``, ``split``, ``held_out``, ``prompt_hash``).
    """
    return [
        {
            "data_source": DATA_SOURCE, "prompt": row["prompt"], "ability": "kernels",
            "reward_model": {"style": "rule", "ground_truth": row["task"]},
            "extra_info": {"index": index, "split": row["split"], "held_out": row["held_out"], "prompt_hash": row["prompt_hash"]},
        }
        for index, row in enumerate(rows(split, **choices))
    ]
