"""Every check by name: the stage it belongs to, and where it can run.

A check that this version does not perform yet, or that a device cannot perform, appears in every record as `not_run` with its reason:
"not tested" never reads as "passed".
"""

from __future__ import annotations

from typing import NamedTuple

from .types import Check, Evidence, Stage, Status

_LATER = "not part of this version"


class CheckSpec(NamedTuple):
    """A named check.

    Attributes:
        name: As it appears in records.
        stage: Where it runs.
        about: What a failure means.
        devices: Device kinds on which it is required.
        missing: Why it is never run, if this version does not perform it.
        advisory: A failure is recorded, and priced, and alone decides nothing: production can do without.
    """

    name: str
    stage: Stage
    about: str
    devices: tuple[str, ...] = ("cpu", "cuda")
    missing: str = ""
    advisory: bool = False


CHECKS = (
    CheckSpec("contract", Stage.BUILD, "the reply holds one usable entry with the task's signature"),
    CheckSpec("build", Stage.BUILD, "the source compiles"),
    CheckSpec("smoke", Stage.SMOKE, "one public shape, normal inputs, loose tolerance: what common benchmarks test"),
    CheckSpec("public_shapes", Stage.VERIFY, "right on the public shapes with realistic inputs"),
    CheckSpec("hidden_shapes", Stage.VERIFY, "right on ragged sizes drawn for this evaluation"),
    CheckSpec("skewed_inputs", Stage.VERIFY, "right on skewed structure: hot and empty experts, one long sequence"),
    CheckSpec("empty_batch", Stage.VERIFY, "a zero-length batch is a no-op"),
    CheckSpec("poison", Stage.VERIFY, "the answer does not depend on what output buffers held before"),
    CheckSpec("canaries", Stage.VERIFY, "nothing is written outside the declared outputs"),
    CheckSpec("inputs_unchanged", Stage.VERIFY, "read-only arguments keep their bytes"),
    CheckSpec("aliasing", Stage.VERIFY, "outputs of one call survive the next"),
    CheckSpec("determinism", Stage.VERIFY, "run-to-run spread is bounded"),
    CheckSpec("perturbation", Stage.VERIFY, "one changed element changes what it must"),
    CheckSpec("overflow_sizes", Stage.VERIFY, "indices beyond 2^31 work", ("cuda",)),
    CheckSpec("cuda_graph", Stage.INTEGRATE, "captures, and replays with new data", ("cuda",)),
    CheckSpec("op_schema", Stage.INTEGRATE, "declares what it mutates"),
    CheckSpec("opaque_graph", Stage.INTEGRATE, "works as an opaque op inside torch.compile"),
    CheckSpec("inline_trace", Stage.INTEGRATE, "Dynamo can trace the Python entry", advisory=True),
    CheckSpec("recompiles", Stage.INTEGRATE, "compilations are bounded over many sizes"),
    CheckSpec("side_stream", Stage.INTEGRATE, "works on a side stream", ("cuda",)),
    CheckSpec("second_device", Stage.INTEGRATE, "works on a device that is not current", ("cuda",), advisory=True),
    CheckSpec("concurrent_streams", Stage.INTEGRATE, "two streams at once do not disturb each other", ("cuda",)),
    CheckSpec("memory_growth", Stage.INTEGRATE, "memory, threads and open files do not grow over many calls"),
    CheckSpec("global_state", Stage.INTEGRATE, "leaves global state alone"),
    CheckSpec("timed_outputs", Stage.PROFILE, "every output of every timed call is right"),
    CheckSpec("clock", Stage.PROFILE, "outputs are final when the worker says so"),
    CheckSpec("void_floor", Stage.PROFILE, "no faster than the hardware's published peaks allow", ("cuda",)),
    CheckSpec("sealed_calls", Stage.PROFILE, "calls that nobody could prepare for are as fast as calls in a row"),
    CheckSpec("quiet_device", Stage.PROFILE, "nothing of the submission runs while a baseline is timed"),
)
"""In the order in which they are decided and reported."""

BY_NAME = {spec.name: spec for spec in CHECKS}


class CheckList:
    """The checks of one evaluation, filled in as it goes.

    Args:
        device: Device kind.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._checks: dict[str, Check] = {}
        self._waived: set[str] = set()

    def passed(self, name: str, detail: str = "") -> None:
        """The check ran and held (unless it failed before)."""
        if name not in self._checks or self._checks[name].status is not Status.FAILED:
            self._set(name, Status.PASSED, detail, Evidence.JUDGED)

    def failed(self, name: str, detail: str, evidence: Evidence = Evidence.JUDGED) -> None:
        """The check ran and did not hold. The first failure's detail stays."""
        if name not in self._checks or self._checks[name].status is not Status.FAILED:
            self._set(name, Status.FAILED, detail, evidence)

    def not_run(self, name: str, reason: str) -> None:
        """The check could not run on this submission; it blocks acceptance where the device requires it."""
        if name not in self._checks:
            self._set(name, Status.NOT_RUN, reason, Evidence.JUDGED)

    def waive(self, name: str, reason: str) -> None:
        """The check does not apply to this task: it stays `not_run` and does not block acceptance."""
        self.not_run(name, reason)
        self._waived.add(name)

    def missing(self) -> list[str]:
        """Checks that this device requires and that have not passed."""
        return [name for name in required(self._device) if not self.has(name, Status.PASSED) and name not in self._waived]

    def has(self, name: str, status: Status) -> bool:
        """Whether a check has that status so far."""
        return name in self._checks and self._checks[name].status is status

    def first_failure(self, *stages: Stage) -> Check | None:
        """The first failed check of these stages that is not merely advisory."""
        failed = (c for c in self.finish("") if c.status is Status.FAILED and c.stage in stages)
        return next((c for c in failed if not BY_NAME[c.name].advisory), None)

    def finish(self, reason: str) -> list[Check]:
        """All checks in order; those that nothing touched are `not_run`, with why."""
        return [self._checks.get(spec.name) or self._untouched(spec, reason) for spec in CHECKS]

    def _untouched(self, spec: CheckSpec, reason: str) -> Check:
        why = spec.missing or ("" if self._device in spec.devices else f"not required on {self._device}") or reason
        return Check(name=spec.name, stage=spec.stage, status=Status.NOT_RUN, detail=why)

    def _set(self, name: str, status: Status, detail: str, evidence: Evidence) -> None:
        self._checks[name] = Check(name=name, stage=BY_NAME[name].stage, status=status, evidence=evidence, detail=detail)


def required(device: str) -> tuple[str, ...]:
    """Names of the checks that must pass on this device for `accepted`."""
    return tuple(spec.name for spec in CHECKS if not spec.missing and not spec.advisory and device in spec.devices)
