"""Run the threat suite through whole evaluations: nothing that cheats or is silently wrong is accepted, nothing honest is refused."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from ..evaluator import Evaluator
from ..registry import load_task
from ..types import Evaluation, Outcome
from .suite import PARITY, Fixture, Suite


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one fixture."""

    name: str
    category: str
    threats: tuple[str, ...]
    task: str
    device: str
    expect: tuple[str, ...]
    outcome: str
    grade: str = ""
    """``faster``, ``parity`` or ``slower`` if it was accepted."""
    decided_by: str
    reason: str
    speedup: float | None = None
    low: float | None = None
    own_kernel_share: float | None = None
    expected: bool
    """Whether outcome and deciding check are as the manifest says."""
    accepted_threat: bool = False
    """A threat that was accepted; with ``parity`` in `expect`, one that was accepted as faster."""
    refused_twin: bool = False
    """An honest submission that was refused."""
    seconds: float
    created: str


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """The figures that must hold: both counts 0, nothing unexpected."""

    fixtures: int
    threats: int
    threats_accepted: int
    twins: int
    twins_refused: int
    unexpected: list[str]

    @property
    def good(self) -> bool:
        """Whether all is as it must be."""
        return not (self.threats_accepted or self.twins_refused or self.unexpected)


def judge_fixture(evaluator: Evaluator, suite: Suite, fixture: Fixture) -> Row:
    """Evaluate one fixture.

    Where being faster is what would be wrong, a result that says so is measured a second time in a fresh worker: a gain that does not
    repeat is noise.
    """
    text = load_task(fixture.task).seeds()[fixture.file.removeprefix("seeds/")] if is_seed(fixture) else suite.text(fixture)
    start = time.perf_counter()
    evaluation = evaluator.evaluate(fixture.task, text, effort=fixture.effort)
    if grade(evaluation) == "faster" and _must_not_be_faster(fixture):
        evaluation = evaluator.evaluate(fixture.task, text, effort=fixture.effort)
    return _row(fixture, evaluation, time.perf_counter() - start)


def is_seed(fixture: Fixture) -> bool:
    """Whether a fixture is a task's own seed rather than a file of the suite."""
    return fixture.name.startswith("seed/")


def grade(evaluation: Evaluation) -> str:
    """How an accepted submission compares with production; empty for any other."""
    speedup = evaluation.speedup
    if evaluation.outcome is not Outcome.ACCEPTED or speedup is None:
        return ""
    return "faster" if speedup.low > 1 else "slower" if speedup.high < 1 else PARITY


def _must_not_be_faster(fixture: Fixture) -> bool:
    return PARITY in fixture.expect and not fixture.honest


def _row(fixture: Fixture, evaluation: Evaluation, seconds: float) -> Row:
    outcome, speed = evaluation.outcome, evaluation.speedup
    accepted = outcome is Outcome.ACCEPTED
    useless = accepted and _must_not_be_faster(fixture) and grade(evaluation) != "faster"
    met = useless or outcome.value in fixture.expect
    decided = not fixture.decides or accepted or evaluation.decided_by in fixture.decides
    return Row(
        name=fixture.name, category=fixture.category, threats=fixture.threats, task=fixture.task, device=evaluation.device.kind,
        expect=fixture.expect, outcome=outcome.value, grade=grade(evaluation), decided_by=evaluation.decided_by,
        reason=evaluation.reason, speedup=speed.estimate if speed else None, low=speed.low if speed else None,
        own_kernel_share=evaluation.own_kernel_share, expected=met and decided,
        accepted_threat=accepted and not fixture.honest and not useless, refused_twin=fixture.honest and not met,
        seconds=seconds, created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )  # fmt: skip


def run_suite(
    device: str, suite: Suite, fixtures: Sequence[Fixture], out: Path | None = None, progress: Callable[[Row], None] = lambda row: None
) -> list[Row]:
    """Evaluate fixtures one after the other on one evaluator.

    Args:
        device: Device kind.
        suite: Where their sources lie.
        fixtures: What to run.
        out: JSONL file; rows that it holds are not run again, new ones are appended.
        progress: Called with every new row.
    """
    done = {row.name: row for row in read_rows(out) if row.device == device} if out else {}
    rows = []
    with Evaluator(device, effort="quick") as evaluator:
        for fixture in fixtures:
            row = done.get(fixture.name)
            if row is None:
                row = judge_fixture(evaluator, suite, fixture)
                progress(row)
                if out:
                    with out.open("ab") as file:
                        file.write(msgspec.json.encode(row) + b"\n")
            rows.append(row)
    return rows


def read_rows(path: Path) -> list[Row]:
    """Rows of an earlier call; an unfinished last line is ignored."""
    if not path.exists():
        return []
    return [msgspec.json.decode(line, type=Row) for line in path.read_bytes().split(b"\n")[:-1] if line]


def count(rows: Iterable[Row]) -> Counts:
    """The figures that must hold."""
    rows = list(rows)
    honest = [row for row in rows if row.category == "TWIN"]
    return Counts(
        fixtures=len(rows), threats=len(rows) - len(honest), threats_accepted=sum(row.accepted_threat for row in rows),
        twins=len(honest), twins_refused=sum(row.refused_twin for row in honest),
        unexpected=[row.name for row in rows if not row.expected],
    )  # fmt: skip


def line(row: Row) -> tuple[str, ...]:
    """The cells of a row: threat, category, expected outcome, outcome, check that decided, seconds."""
    outcome = f"{row.outcome}, {row.grade} ({row.speedup:.2f}x)" if row.grade else row.outcome
    marked = outcome if row.expected else f"{outcome} (!)"
    return row.name, row.category, " or ".join(row.expect), marked, row.decided_by or "-", f"{row.seconds:.1f}"


HEADER = ("threat", "category", "expected outcome", "outcome", "check that decided", "seconds")


def summary(counts: Counts) -> str:
    """The two counts, and what was not as expected, in words."""
    lines = [
        f"threats accepted: {counts.threats_accepted} of {counts.threats} (must be 0)",
        f"honest twins refused: {counts.twins_refused} of {counts.twins} (must be 0)",
    ]
    if counts.unexpected:
        lines.append(f"not as expected: {', '.join(counts.unexpected)}")
    return "\n".join(lines)
