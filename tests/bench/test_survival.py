"""Survival runs: what is counted, what is left behind, and how a judge that died is seen."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from fastkernels_env.bench.suite import find_suite
from fastkernels_env.bench.survival import Began, Ended, Left, read_lines, run_survival, summarise
from fastkernels_env.bench.traces import LEAKS, look


def ended(number, outcome="wrong", honest=False, **others):
    return Ended(number=number, fixture="one", honest=honest, outcome=outcome, decided_by="smoke", rss_bytes=1, **others)


def left(interrupted=False, **leaks):
    return Left(evaluations=1, leaks=dict.fromkeys(LEAKS, 0) | leaks, rss_growth=5, gpu_growth=0, interrupted=interrupted)


def began(number):
    return Began(number=number, fixture="one")


def test_a_quiet_run_is_good():
    result = summarise([began(0), ended(0, "accepted", True), began(1), ended(1), left()])
    assert result.good
    assert (result.evaluations, result.honest, result.outcomes) == (2, 1, {"accepted": 1, "wrong": 1})


@pytest.mark.parametrize(
    "lines",
    [
        [began(0)],
        [began(0), ended(0), began(1), began(1), ended(1), left()],
        [began(0), ended(0, "wrong", True), left()],
        [began(0), ended(0, "accepted", accepted_threat=True), left()],
        [began(0), ended(0), left(processes=1)],
        [began(0), ended(0), left(folders=2), began(1), ended(1), left()],
    ],
    ids=["died", "died and went on", "refused honest work", "accepted a threat", "left a process", "an earlier call left folders"],
)
def test_what_must_not_be_is_not_good(lines):
    assert not summarise(lines).good


def test_an_interrupt_is_no_death():
    assert summarise([began(0), left(interrupted=True)]).judge_deaths == 0


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """A temporary folder in which no other evaluator works."""
    folder = tmp_path / "temp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))


def test_a_run_goes_on_where_it_stopped(tmp_path, own_folder):
    out, suite = tmp_path / "lines.jsonl", find_suite(None)
    gentle = type(suite).__new__(type(suite))
    gentle.folder = suite.folder
    gentle.fixtures = {name: suite.fixtures[name] for name in ("no_work", "printed_score", "equal_to_anything")}
    first = run_survival("cpu", gentle, 2, 2, out)
    assert (first.evaluations, first.honest) == (2, 1)
    second = run_survival("cpu", gentle, 3, 2, out)
    assert (second.evaluations, second.honest, second.honest_refused, second.judge_deaths) == (3, 2, 0, 0)
    assert second.good, second.leaks
    assert [line.number for line in read_lines(out) if isinstance(line, Ended)] == [0, 1, 2]


def test_what_is_left_behind_is_seen(own_folder):
    """The twin of the counts that must be zero: each kind of thing would be found."""
    before = look("cpu")
    folder = Path(tempfile.mkdtemp(prefix="fastkernels-"))
    shared = Path("/dev/shm") / folder.name
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"], stdin=subprocess.DEVNULL)
    memory, end = os.memfd_create("left"), socket.socket()
    try:
        shared.touch()
        gone = look("cpu").since(before)
        assert {name: gone[name] for name in LEAKS} == {
            "processes": 1, "descriptors": 2, "memory_files": 1, "sockets": 1, "shared_segments": 1, "folders": 1,
        }  # fmt: skip
    finally:
        child.kill()
        child.wait()
        os.close(memory)
        end.close()
        shared.unlink()
        folder.rmdir()
    assert {name: count for name, count in look("cpu").since(before).items() if name in LEAKS} == dict.fromkeys(LEAKS, 0)
