"""From checks and errors to one outcome and one sentence."""

from __future__ import annotations

from ..checks import CheckList
from ..types import Check, Outcome, Stage, Status
from .errors import WorkerError, WorkerTimedOut

UNTIMED = "Triton is checked through its interpreter on a CPU host, not timed"


def decide(checks: CheckList, error: WorkerError | None, tampered: str, stage: Stage, timed: bool) -> tuple[Outcome, str]:
    """Outcome and reason of a submission that was built.

    Args:
        checks: After all stages that were reached.
        error: What ended the worker early, if anything.
        tampered: Evidence of cheating, if any.
        stage: The stage that ran last.
        timed: Whether this device can time this language.
    """
    if tampered:
        return Outcome.TAMPERED, tampered
    smoke, silent = checks.first_failure(Stage.SMOKE), checks.first_failure(Stage.VERIFY, Stage.PROFILE)
    if error is not None and smoke is None and silent is None:  # a later crash does not undo a silent error
        outcome = Outcome.TIMED_OUT if isinstance(error, WorkerTimedOut) else Outcome.CRASHED
        return outcome, f"{stage.value}: {error.summary}"
    if smoke is not None:
        return Outcome.WRONG, _sentence(smoke)
    if silent is not None:
        return Outcome.SILENT_ERROR, f"passes the smoke check, but {_sentence(silent)}"
    if conflict := checks.first_failure(Stage.INTEGRATE):
        return Outcome.STACK_CONFLICT, _sentence(conflict)
    missing = checks.missing()
    if not timed and all(check.stage is Stage.PROFILE for check in checks.finish("") if check.name in missing):
        return Outcome.UNMEASURED, f"right in every check that ran; {UNTIMED}"
    if missing:
        return Outcome.FAULT, f"these required checks did not run: {', '.join(missing)}"
    return Outcome.ACCEPTED, "every check that is required on this device passed"


def decided_by(outcome: Outcome, reason: str, stage: Stage, checks: list[Check]) -> str:
    """Name of the check that the verdict rests on, or of the stage in which the submission's process ended; see `Evaluation.decided_by`.

    Args:
        outcome: Of the evaluation.
        reason: Its sentence, which quotes the check.
        stage: The stage that ran last.
        checks: All of them, in order.
    """
    if outcome in (Outcome.ACCEPTED, Outcome.UNMEASURED, Outcome.FAULT):
        return ""
    if outcome in (Outcome.CRASHED, Outcome.TIMED_OUT):
        return stage.value
    failed = [check for check in checks if check.status is Status.FAILED]
    quoted = [check for check in failed if check.detail and check.detail in reason]
    return next((check.name for check in quoted or failed), "contract" if outcome is Outcome.REJECTED else stage.value)


def _sentence(check: Check) -> str:
    assert check.status is Status.FAILED
    return f"{check.name} failed: {check.detail}"
