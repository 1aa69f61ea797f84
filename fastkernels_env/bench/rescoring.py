"""How long it takes to score a log again: the command ``fastkernels-env rescore``, as a process of its own."""

from __future__ import annotations

import itertools
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from ..log import encode_record, read_log
from ..types import Evaluation


class RescoringTime(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement."""

    records: int
    record_bytes: float
    """Mean length of a line."""
    table_seconds: float
    """To print the table: from the start of the process to its end."""
    table_cpu_seconds: float
    """Of which a core was busy for it: the others' share of a busy machine is not in this."""
    log_seconds: float
    """To write a log with the new rewards."""
    log_cpu_seconds: float
    csv_seconds: float
    """To write a CSV file."""
    csv_cpu_seconds: float


def measure_rescoring(log: Path, records: int, preset: str) -> RescoringTime:
    """Repeat a log's records, with new ids, and score them again.

    Args:
        log: Where the records come from.
        records: How many to score.
        preset: Name of the reward preset.

    Raises:
        LogError: The log cannot be read.
        ValueError: It holds no record.
    """
    known = read_log(log)
    if not known:
        raise ValueError(f"{log} holds no record; name a log that evaluations were written to")
    with tempfile.TemporaryDirectory(prefix="rescoring-") as folder:
        path = Path(folder) / "log.jsonl"
        with path.open("wb") as file:
            file.writelines(map(encode_record, _repeated(known, records)))
        command = [sys.executable, "-m", "fastkernels_env", "rescore", str(path), "--reward", preset]
        outs = ["--out", f"{folder}/out.jsonl"], ["--out", f"{folder}/out.csv"]
        table, written, csv = [_timed([*command, *out]) for out in ([], *outs)]
        size = path.stat().st_size
    return RescoringTime(
        records=records, record_bytes=size / records, table_seconds=table.wall, table_cpu_seconds=table.cpu,
        log_seconds=written.wall, log_cpu_seconds=written.cpu, csv_seconds=csv.wall, csv_cpu_seconds=csv.cpu,
    )


def _repeated(known: list[Evaluation], records: int) -> Iterator[Evaluation]:
    for number, record in enumerate(itertools.islice(itertools.cycle(known), records)):
        yield replace(record, id=f"{record.id}-{number}")


class _Seconds(NamedTuple):
    wall: float
    cpu: float


def _timed(command: list[str]) -> _Seconds:
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return _Seconds(time.monotonic() - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
