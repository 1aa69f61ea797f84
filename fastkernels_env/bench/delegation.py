"""Entries that hand all work to a baseline: they must earn parity and no more, and have no kernel of their own."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import msgspec

from ..evaluator import Evaluator
from ..registry import load_task
from ..types import Outcome
from .integrity import grade

_EXTRA = re.compile(r", ((?:plan|prepared)(?:=None)?\s*\):)")


class Delegation(msgspec.Struct, frozen=True, kw_only=True):
    """One baseline's own source, submitted."""

    task: str
    baseline: str
    outcome: str
    grade: str
    speedup: float | None
    low: float | None
    high: float | None
    own_kernel_share: float | None
    decided_by: str
    reason: str

    @property
    def good(self) -> bool:
        """Whether it earned nothing: not faster, if it was accepted at all, and without a share of its own where that was measured."""
        return self.grade != "faster" and self.outcome != Outcome.FAULT.value


def submission(task: str, file: str) -> str:
    """A baseline's source as a submission: what a baseline takes as an option, an entry takes by keyword only."""
    text = (load_task(task).folder / "baselines" / file).read_text()
    code = _EXTRA.sub(r", *, \1", text, count=1)
    return f"```python\n{code}```\n"


def run_delegation(
    device: str, tasks: Sequence[str], effort: str = "full", progress: Callable[[Delegation], None] = lambda row: None
) -> list[Delegation]:
    """Submit every uncompiled baseline of these tasks that the device has; a gain that does not repeat is noise."""
    rows = []
    with Evaluator(device, effort=effort) as evaluator:
        for name in tasks:
            for baseline in load_task(name).baselines:
                if device in baseline.devices and not baseline.compile:
                    rows.append(_one(evaluator, name, baseline.name, baseline.file))
                    progress(rows[-1])
    return rows


def _one(evaluator: Evaluator, task: str, baseline: str, file: str) -> Delegation:
    text = submission(task, file)
    evaluation = evaluator.evaluate(task, text)
    if grade(evaluation) == "faster":
        evaluation = evaluator.evaluate(task, text)
    speed = evaluation.speedup
    return Delegation(
        task=task, baseline=baseline, outcome=evaluation.outcome.value, grade=grade(evaluation),
        speedup=speed.estimate if speed else None, low=speed.low if speed else None, high=speed.high if speed else None,
        own_kernel_share=evaluation.own_kernel_share, decided_by=evaluation.decided_by, reason=evaluation.reason,
    )  # fmt: skip


HEADER = ("task", "baseline", "outcome", "speedup (95 % interval)", "own-kernel share", "check that decided")


def line(row: Delegation) -> tuple[str, ...]:
    """The cells of a row."""
    speed = f"{row.speedup:.3f} ({row.low:.3f} to {row.high:.3f})" if row.speedup is not None else "-"
    share = f"{row.own_kernel_share:.2f}" if row.own_kernel_share is not None else "-"
    return row.task, row.baseline, f"{row.outcome}{', ' if row.grade else ''}{row.grade}", speed, share, row.decided_by or "-"
