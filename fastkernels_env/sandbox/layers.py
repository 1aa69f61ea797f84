"""The layers of containment, by name, and which of them hold a process."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

PROCESSES = "separate processes"
MEMORY = "memory by descriptor"
SCRATCH = "scratch folder"
DESCENDANTS = "descendants ended"
NETWORK = "network namespace"
IPC = "ipc namespace"
PID = "pid namespace"
VIEW = "mount view"
UID = "unprivileged uid"
PRIVILEGES = "no new privileges"
LANDLOCK = "landlock"
SECCOMP = "seccomp"
LIMITS = "resource limits"
WATCH = "memory watch"
BUILDS = "confined builds"

ALWAYS = (PROCESSES, MEMORY, SCRATCH, DESCENDANTS)
"""Need nothing of the host."""
PROCESS_LAYERS = (*ALWAYS, NETWORK, IPC, PID, VIEW, UID, PRIVILEGES, LANDLOCK, SECCOMP, LIMITS, WATCH)
"""What can hold one process tree."""
LAYERS = (*PROCESS_LAYERS, BUILDS)


class Report(NamedTuple):
    """What holds the processes of a submission: the layers that were established, and why the others were not."""

    active: tuple[str, ...]
    missing: dict[str, str]

    @classmethod
    def of_tree(cls, missing: dict[str, str]) -> Report:
        """The report of one process tree.

        Args:
            missing: Why a layer is not there, by layer.
        """
        return cls(tuple(layer for layer in PROCESS_LAYERS if layer not in missing), dict(missing))


class ContainmentError(Exception):
    """Strict containment was asked for, and this host lacks a layer."""


def merge(workers: Iterable[Report], builds: Iterable[Report] = ()) -> Report:
    """What held every process of an evaluation; empty if there was none.

    Args:
        workers: One report per worker that was given the submission.
        builds: One per compiler that ran outside of a worker. "confined builds" is about these, or about the workers if there is none.
    """
    workers, builds = list(workers), list(builds)
    if not workers and not builds:
        return Report((), {})
    missing: dict[str, str] = {}
    for report in workers or builds:
        missing |= report.missing
    for report in builds or workers:
        if report.missing:
            missing[BUILDS] = f"compilers ran without: {', '.join(name for name in LAYERS if name in report.missing)}"
    return Report(tuple(layer for layer in LAYERS if layer not in missing), {name: missing[name] for name in LAYERS if name in missing})


def refusal(missing: dict[str, str]) -> str:
    """Why a strict evaluator does not run, in one sentence."""
    reasons = "; ".join(f"{layer} ({why})" for layer, why in missing.items())
    return f"strict containment was asked for, and this host lacks: {reasons}"
