"""Judging hostile submissions: each is followed by an honest one, and nothing of either may be left on the machine."""

from __future__ import annotations

import gc
import os
import tempfile
import textwrap
from pathlib import Path

import pytest

from fastkernels_env import Evaluator, Outcome
from fastkernels_env.judge import matrix, scope
from fastkernels_env.sandbox.layers import LAYERS

HEAD = """
    import array, ctypes, mmap, os, signal, socket, struct, sys, threading, time
    import torch

    started = []
    libc = ctypes.CDLL(None, use_errno=True)

    def honest(out, input, weight, factor):
        torch.mul(input, weight, out=out)
        out.mul_(factor)

    def denied(function, *arguments):
        try:
            function(*arguments)
        except OSError:
            return True
        return False

    def once():
        started.append(0)
        return len(started) == 1
"""


def write_python(body, outside="", honest=True):
    """A submission that runs `body` at its first call and then, if `honest`, does its work."""
    lines = ["if once():", textwrap.indent(textwrap.dedent(body).strip() or "pass", "    ")]
    lines += ["honest(out, input, weight, factor)"] if honest else []
    entry = "def tiny_scale(out, input, weight, factor):\n" + textwrap.indent("\n".join(lines), "    ")
    return "```python\n" + "\n".join([textwrap.dedent(HEAD), textwrap.dedent(outside), entry]) + "\n```"


@pytest.fixture(scope="session")
def python():
    return write_python


class Traces:
    """What an evaluation may leave behind on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def now(self) -> dict[str, object]:
        gc.collect()
        links = []
        for name in os.listdir("/proc/self/fd"):
            try:
                links.append(os.readlink(f"/proc/self/fd/{name}"))
            except OSError:
                continue  # the listing's own descriptor
        kinds = [link.split(":")[0] for link in links]
        return {
            "descriptors": len(links), "memory files": kinds.count("/memfd"), "sockets": kinds.count("socket"),
            "folders": sorted(entry.name for entry in self.folder.iterdir()), "processes": sandboxed(),
            "shared memory": [entry.name for entry in Path("/dev/shm").iterdir() if 61000 <= entry.stat().st_uid < 62000],
            "groups": groups(),
        }


def sandboxed() -> list[int]:
    """Living processes of submissions: those under a user id of ours."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                owner = int(next(line for line in (entry / "status").read_text().splitlines() if line.startswith("Uid:")).split()[1])
            except (OSError, StopIteration):
                continue
            if 61000 <= owner < 62000:
                found.append(int(entry.name))
    return found


def groups() -> list[str]:
    return sorted(str(path) for path in Path("/sys/fs/cgroup").glob(f"**/fastkernels-{os.getpid()}-*"))


@pytest.fixture(scope="module")
def place(tmp_path_factory, host_cache, tiny_root):
    """An evaluator of its own: its temporary files lie in one folder, its submissions run under user ids of their own."""
    folder = tmp_path_factory.mktemp("temp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder))
        patch.setenv("FASTKERNELS_ENV_PATH", str(tiny_root))
        patch.setenv("FASTKERNELS_UID_BASE", "61000")
        patch.setenv("FASTKERNELS_MEMORY_GB", "1")
        traces = Traces(folder)
        with Evaluator("cpu", effort="quick") as evaluator:
            first = evaluator.evaluate("tiny_scale", write_python(""))
            assert first.outcome is Outcome.ACCEPTED, first.reason
            if os.geteuid() == 0:
                assert first.containment == list(LAYERS), first.missing_containment
            yield evaluator, traces
        left = traces.now()
        assert left["folders"] == left["processes"] == left["groups"] == []


@pytest.fixture
def hit(place, tiny, monkeypatch):
    """Judges a hostile submission, then an honest one; returns the hostile one's record."""
    evaluator, traces = place
    monkeypatch.setattr(tempfile, "tempdir", str(traces.folder))
    monkeypatch.setattr(matrix, "FIRST_CALL_SECONDS", 12.0)
    monkeypatch.setattr(scope, "CALL_SECONDS", 12.0)

    def hit(text, task="tiny_scale"):
        before = traces.now()
        evaluation = evaluator.evaluate(task, text)
        after = evaluator.evaluate(task, write_python(""))
        assert after.outcome is Outcome.ACCEPTED, after.reason
        assert traces.now() == before
        return evaluation

    return hit
