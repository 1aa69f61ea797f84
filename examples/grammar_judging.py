"""Judges the programs of `grammar` into a log, by the library's judge or the usual way; run it by ``grammar.py judge``."""

from __future__ import annotations

import datetime
import json
import lzma
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import as_completed
from pathlib import Path

import msgspec
import numpy as np
from grammar import TASK, Program, describe, load, name_of, programs, reply
from grammar_source import source

from fastkernels_env import Evaluator
from fastkernels_env.bench.usual import CALLS
from fastkernels_env.build import Build, BuildError
from fastkernels_env.device import open_device
from fastkernels_env.log import append_record, encode_record
from fastkernels_env.registry import load_task
from fastkernels_env.submission import extract
from fastkernels_env.types import Check, Context, Evaluation, Outcome, Speedup, Stage, Status, Timing
from fastkernels_env.versions import versions

_SECONDS = 120
"""After which the usual judge gives a program up."""
_RESAMPLES = 10_000
_DIGITS = 4
"""Of a time, in a log that is packed: what is measured here is not known better than that."""


def judge(log: Path, only: Sequence[Program], usual: bool, effort: str, judges: int) -> None:
    """Judge programs: `only` these or, if there are none, all that a log does not hold yet; pack the log if its name ends in ``.xz``.

    Until all are judged the records lie in the ``.jsonl`` file beside it: what was interrupted goes on from there.
    """
    working = log.with_suffix("") if log.suffix == ".xz" else log
    known = {**(load(log) if log.exists() else {}), **(load(working) if working.exists() else {})}
    missing = only or [program for program in programs() if program not in known or known[program].outcome is Outcome.FAULT]
    answers = _usual(missing) if usual else _ours(missing, effort, judges)
    for number, (program, record) in enumerate(answers, 1):
        print(f"{number}/{len(missing)} {describe(program, record)}", file=sys.stderr, flush=True)
        known[program] = record
        append_record(working, record)
    if working != log:
        pack([known[program] for program in programs() if program in known], log)
        working.unlink(missing_ok=True)


def compare(first: Program, second: Program, times: int, effort: str) -> str:
    """Judge two programs in turn, so many times each; how much faster the first is, with a bootstrap interval over evaluations.

    Both are timed against the same baselines, so their speedups divide. An interval within one evaluation does not see what differs from
    one process to the next; one over evaluations does.
    """
    speeds: dict[Program, list[float]] = {first: [], second: []}
    with Evaluator("cpu", effort=effort) as evaluator:
        for _ in range(times):
            for program in speeds:
                record = evaluator.evaluate(TASK, reply(program), context=_context(program))
                print(describe(program, record), file=sys.stderr, flush=True)
                if record.outcome is Outcome.ACCEPTED and record.speedup:
                    speeds[program].append(record.speedup.estimate)
    ours, theirs = (np.log(speeds[program]) for program in (first, second))
    if not (len(ours) and len(theirs)):
        return "expected accepted programs, whose speeds can be compared; see what became of each above"
    rng = np.random.default_rng(0)
    drawn = [np.median(rng.choice(ours, len(ours))) - np.median(rng.choice(theirs, len(theirs))) for _ in range(_RESAMPLES)]
    low, high = np.exp(np.quantile(drawn, [0.025, 0.975]))
    ratio = np.exp(np.median(ours) - np.median(theirs))
    return (
        f"{name_of(first)} is {ratio:.2f} times as fast as {name_of(second)}: 95 % interval {low:.2f} to {high:.2f}, over medians of "
        f"{len(ours)} and {len(theirs)} evaluations"
    )


def pack(records: Iterable[Evaluation], log: Path) -> None:
    """Write a compressed log. Left out: replies (the code is there), what compilers print, digits that only measure noise."""
    lines = b"".join(encode_record(_trimmed(record)) for record in records)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(lzma.compress(lines, preset=9 | lzma.PRESET_EXTREME))


def _trimmed(record: Evaluation) -> Evaluation:
    short = msgspec.structs.replace(record, text="", build_log="", seconds={"total": record.seconds.get("total", 0.0)})
    data = _rounded(msgspec.to_builtins(short))
    return msgspec.convert(data, Evaluation)


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def _ours(missing: Sequence[Program], effort: str, judges: int) -> Iterator[tuple[Program, Evaluation]]:
    """What the library's judge says, in the order in which it says it."""
    with Evaluator("cpu", effort=effort, judges=judges or None) as evaluator:
        asked = {evaluator.submit(TASK, reply(program), context=_context(program)): program for program in missing}
        for answer in as_completed(asked):
            yield asked[answer], answer.result()


def _context(program: Program) -> Context:
    return Context(run="grammar", episode=name_of(program), group=TASK)


def _usual(missing: Sequence[Program]) -> Iterator[tuple[Program, Evaluation]]:
    """What common benchmarks say, as records, so that every reward can score them."""
    for program in missing:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="usual-") as folder:
            record = _usual_record(program, Path(folder) / "reply.txt")
        yield program, msgspec.structs.replace(record, seconds={"total": time.perf_counter() - start})


def _usual_record(program: Program, file: Path) -> Evaluation:
    task = load_task(TASK)
    try:
        with Build(extract(reply(program), task, "cpu")) as build:
            build.result()
    except BuildError as error:
        return _record(program, Outcome.BUILD_FAILED, error.summary)
    file.write_text(reply(program))
    command = [sys.executable, "-P", "-m", "fastkernels_env.bench.usual", TASK, str(file), "cpu"]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        return _record(program, Outcome.TIMED_OUT, f"no answer within {_SECONDS} s")
    if ended.returncode:
        return _record(program, Outcome.CRASHED, f"the process ended with status {ended.returncode}")
    answer = json.loads(ended.stdout.splitlines()[-1])
    if not answer["right"]:
        return _record(program, Outcome.WRONG, "differs from the reference", Status.FAILED)
    return _timed(_record(program, Outcome.ACCEPTED, "agrees with the reference", Status.PASSED), answer)


def _record(program: Program, outcome: Outcome, reason: str, smoke: Status = Status.NOT_RUN) -> Evaluation:
    """A record of the usual judge, without times."""
    task = load_task(TASK)
    return Evaluation(
        id=uuid.uuid4().hex, created=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"), task=TASK,
        task_version=task.version, device=open_device("cpu").info(), effort="usual", seed=0, outcome=outcome, reason=reason,
        checks=[Check(name="smoke", stage=Stage.SMOKE, status=smoke, detail="" if smoke is Status.PASSED else reason)],
        workloads_right=float(smoke is Status.PASSED), code=source(program), language="cpp", context=_context(program), versions=versions(),
    )


def _timed(record: Evaluation, answer: dict[str, float]) -> Evaluation:
    """With the one shape's times: of one baseline, and nothing is known of their spread."""
    workload, ratio = load_task(TASK).smoke_workload("cpu"), answer["speedup"]
    timing = Timing(
        workload=workload.name, count=workload.count, candidate_us=1e6 * answer["seconds"], best_baseline="eager",
        baselines={"eager": 1e6 * answer["eager_seconds"]}, speed_of_light=None, calls=CALLS,
    )
    speedup = Speedup(estimate=ratio, low=ratio, high=ratio, worst=ratio, worst_workload=workload.name)
    return msgspec.structs.replace(record, timings=[timing], speedup=speedup)
