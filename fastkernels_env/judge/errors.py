"""What can go wrong while a submission is judged, and whose it is."""

from __future__ import annotations


class JudgeFault(Exception):
    """Ours: the reference, a baseline, the device or the judge itself. The outcome is `fault`; a second attempt may help."""


class LastingFault(JudgeFault):
    """A fault that a second attempt cannot mend: the task is broken, or this host lacks what it needs."""


class WorkerError(Exception):
    """The submission's: it raised, died, hung, or broke the protocol. `detail` is fit for feedback."""

    def __init__(self, summary: str, detail: str = "") -> None:
        super().__init__(summary)
        self.summary, self.detail = summary, detail


class WorkerRaised(WorkerError):
    """A Python or native exception in the submission; `kind` is its class name, as reported."""

    def __init__(self, summary: str, detail: str, kind: str) -> None:
        super().__init__(summary, detail)
        self.kind = kind


class WorkerDied(WorkerError):
    """The worker's process ended."""


class WorkerTimedOut(WorkerError):
    """No answer before the deadline."""


class StepFailed(Exception):
    """The submission raised in a step of the integrate gate, as its process reports; the worker lives on."""

    def __init__(self, summary: str, kind: str) -> None:
        super().__init__(summary)
        self.summary, self.kind = summary, kind


class CompileError(Exception):
    """A kernel that is compiled at its first call does not compile."""

    def __init__(self, summary: str, log: str) -> None:
        super().__init__(summary)
        self.summary, self.log = summary, log
