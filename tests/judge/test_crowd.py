"""Other users of the processors: seen if they are strangers, not if they are this process's own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastkernels_env.judge.crowd import Crowd

SPIN = "import time\nend = time.monotonic() + {seconds}\nwhile time.monotonic() < end: pass"
CORES = frozenset(os.sched_getaffinity(0))


def spin(seconds):
    return [sys.executable, "-c", SPIN.format(seconds=seconds)]


@pytest.fixture
def stranger(tmp_path):
    """A busy process that belongs to nobody here: whoever started it has ended."""
    note = tmp_path / "pid"
    code = f"import subprocess, pathlib\npathlib.Path({str(note)!r}).write_text(str(subprocess.Popen({spin(30)!r}).pid))"
    subprocess.run([sys.executable, "-c", code], check=True)
    pid = int(note.read_text())
    yield pid
    os.kill(pid, 9)


def test_a_busy_stranger_is_a_crowd(stranger):
    assert Path(f"/proc/{stranger}").exists()
    crowd = Crowd(CORES)
    time.sleep(0.6)
    assert crowd.dense


def test_work_of_ones_own_is_none():
    def quiet():
        crowd = Crowd(CORES)
        subprocess.run(spin(0.5), check=True)
        return not crowd.dense

    assert any(quiet() for _ in range(10)), "of ten tries one falls into a moment without other work on this host"


def test_where_no_processors_count_nobody_is_in_the_way(stranger):
    crowd = Crowd(frozenset())
    time.sleep(0.2)
    assert not crowd.dense
