"""How much the judge survives: hostile submissions in random order, an honest one now and then, and what is left behind at the end.

Every evaluation is one line of a JSONL file when it begins and one when it ends, so that a judge that died is seen by the call that goes
on. What is left behind is the difference between two moments without an evaluator, the first one after an honest evaluation that is not
counted: a process keeps some things once it has used them, such as CUDA's context.
"""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Callable
from pathlib import Path

import msgspec

from ..evaluator import Evaluator
from ..registry import load_task
from ..types import Evaluation, Outcome
from .integrity import judge_fixture
from .suite import Fixture, Suite
from .traces import LEAKS, Traces, look

HONEST = {"cpu": ("rms_norm", "cpu.cpp"), "cuda": ("rms_norm", "triton.py")}
"""Task and seed of the honest submission, by device kind."""


class Began(msgspec.Struct, frozen=True, kw_only=True, tag="began"):
    """An evaluation starts."""

    number: int
    fixture: str


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag="ended"):
    """An evaluation is over and the judge lives."""

    number: int
    fixture: str
    honest: bool
    outcome: str
    decided_by: str
    accepted_threat: bool = False
    """As in the table of `bench integrity`."""
    rss_bytes: int


class Left(msgspec.Struct, frozen=True, kw_only=True, tag="left"):
    """A call is over: what its evaluations left behind."""

    evaluations: int
    leaks: dict[str, int]
    rss_growth: int
    """Bytes of resident memory between the first honest evaluation and the last line."""
    gpu_growth: int
    interrupted: bool


Line = Began | Ended | Left


class Survival(msgspec.Struct, frozen=True, kw_only=True):
    """The figures that must hold."""

    evaluations: int
    judge_deaths: int
    """Evaluations that began and never ended, though nobody interrupted them."""
    faults: int
    honest: int
    honest_refused: int
    threats_accepted: int
    """Hostile submissions that were accepted, other than at no more than the baseline's speed where that is right."""
    outcomes: dict[str, int]
    leaks: dict[str, int]
    rss_growth: int
    gpu_growth: int

    @property
    def good(self) -> bool:
        """Whether the judge lives, honest work alone is accepted and nothing is left."""
        return not (self.judge_deaths or self.honest_refused or self.threats_accepted or any(count > 0 for count in self.leaks.values()))


def run_survival(
    device: str, suite: Suite, total: int, every: int, out: Path, progress: Callable[[Ended], None] = lambda line: None
) -> Survival:
    """Evaluate until `out` holds `total` evaluations.

    Args:
        device: Device kind.
        suite: Hostile fixtures are drawn from its threats for the device.
        total: Evaluations in all calls together.
        every: One in so many is honest.
        out: JSONL file; a second call goes on where the first one stopped.
        progress: Called after every evaluation.
    """
    done = [line for line in read_lines(out) if isinstance(line, Ended)]
    hostile = [fixture for fixture in suite.on(device) if not fixture.honest]
    with Evaluator(device, effort="quick") as evaluator:
        _evaluate_honest(evaluator, device)
    before, first_rss, ended = look(device), 0, 0
    interrupted = True
    try:
        with Evaluator(device, effort="quick") as evaluator:
            for number in range(len(done), total):
                fixture = None if number % every == 0 else random.Random(secrets.randbits(64)).choice(hostile)
                line = _one(evaluator, device, suite, number, fixture, out)
                first_rss = first_rss or line.rss_bytes
                ended += 1
                progress(line)
        interrupted = False
    finally:
        after = look(device)
        _append(out, _left(before, after, ended, first_rss, interrupted))
    return summarise(read_lines(out))


def _one(evaluator: Evaluator, device: str, suite: Suite, number: int, fixture: Fixture | None, out: Path) -> Ended:
    name = fixture.name if fixture else "honest"
    _append(out, Began(number=number, fixture=name))
    if fixture is None:
        evaluation = _evaluate_honest(evaluator, device)
        outcome, decided_by, threat = evaluation.outcome.value, evaluation.decided_by, False
    else:
        row = judge_fixture(evaluator, suite, fixture)
        outcome, decided_by, threat = row.outcome, row.decided_by, row.accepted_threat
    line = Ended(
        number=number, fixture=name, honest=fixture is None, outcome=outcome, decided_by=decided_by, accepted_threat=threat,
        rss_bytes=_rss(),
    )  # fmt: skip
    _append(out, line)
    return line


def _evaluate_honest(evaluator: Evaluator, device: str) -> Evaluation:
    task, seed = HONEST[device]
    return evaluator.evaluate(task, load_task(task).seeds()[seed])


def _left(before: Traces, after: Traces, evaluations: int, first_rss: int, interrupted: bool) -> Left:
    gone = after.since(before)
    return Left(
        evaluations=evaluations, leaks={name: gone[name] for name in LEAKS}, rss_growth=_rss() - first_rss if first_rss else 0,
        gpu_growth=gone["gpu_bytes"], interrupted=interrupted,
    )  # fmt: skip


def summarise(lines: list[Line]) -> Survival:
    """The figures over all calls; leaks of every call count, growth is that of the worst one."""
    ended = [line for line in lines if isinstance(line, Ended)]
    calls = [line for line in lines if isinstance(line, Left)]
    honest = [line for line in ended if line.honest]
    outcomes: dict[str, int] = {}
    for line in ended:
        outcomes[line.outcome] = outcomes.get(line.outcome, 0) + 1
    return Survival(
        evaluations=len(ended), judge_deaths=_deaths(lines), faults=outcomes.get(Outcome.FAULT.value, 0), honest=len(honest),
        honest_refused=sum(line.outcome != Outcome.ACCEPTED.value for line in honest),
        threats_accepted=sum(line.accepted_threat for line in ended), outcomes=outcomes,
        leaks={name: sum(call.leaks.get(name, 0) for call in calls) for name in LEAKS},
        rss_growth=max((call.rss_growth for call in calls), default=0), gpu_growth=max((call.gpu_growth for call in calls), default=0),
    )  # fmt: skip


def _deaths(lines: list[Line]) -> int:
    """Evaluations that were neither ended nor interrupted: the process that ran them is gone without a word."""
    deaths = 0
    for line, after in zip(lines, [*lines[1:], None], strict=True):
        deaths += isinstance(line, Began) and not isinstance(after, Ended | Left)
    return deaths


def read_lines(path: Path) -> list[Line]:
    """Lines of earlier calls; an unfinished last one is ignored."""
    if not path.exists():
        return []
    decoder = msgspec.json.Decoder(Line)
    return [decoder.decode(line) for line in path.read_bytes().split(b"\n")[:-1] if line]


def _append(path: Path, line: Line) -> None:
    with path.open("ab") as file:
        file.write(msgspec.json.encode(line) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _rss() -> int:
    return look("cpu").rss_bytes
