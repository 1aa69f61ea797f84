"""A device's memory that runs out while several judges use it is nobody's fault that is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import JudgeFault

if TYPE_CHECKING:
    from .judge import Judge


def blame_nobody_for_memory(judge: Judge, why: str) -> None:
    """Call when a worker failed, before it is held against the submission.

    What a submission takes itself is limited (see `sandbox.limits`), and what is a fault twice while a baseline on the same inputs is right
    counts as its doing after all.

    Args:
        judge: The judge.
        why: How the worker failed, in its own words.

    Raises:
        JudgeFault: It was out of memory, and so is the device.
    """
    if "out of memory" in why.lower() and judge.device.short():
        raise JudgeFault(f"the device was out of memory beside other evaluations: {why.splitlines()[0]}")
