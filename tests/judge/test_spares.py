"""Workers that are started ahead: each is used once, by whom it was not started for, and holds nobody up."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from fastkernels_env.device.cpu import CpuDevice
from fastkernels_env.judge.host import WorkerHost
from fastkernels_env.judge.quiet import Canary
from fastkernels_env.judge.spares import Spares
from fastkernels_env.judge.turns import taking_turns
from fastkernels_env.registry import load_task

TASK = load_task("rms_norm")


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    host = WorkerHost(CpuDevice(), tmp_path_factory.mktemp("cache"))
    yield host
    host.close()


@pytest.fixture
def spares(host):
    spares = Spares(host)
    yield spares
    for session in spares.sessions():
        session.close()
    spares.close()


def states(session):
    return {Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in session.processes()}


@pytest.mark.parametrize("stack", [False, True])
def test_a_worker_that_was_started_ahead_is_the_next_one(spares, stack):
    first = spares.take(TASK, stack)
    (ahead,) = spares.sessions()
    second = spares.take(TASK, stack)
    assert second is ahead
    assert second.pid != first.pid
    assert spares.sessions() != [ahead], "no worker is used twice"
    for session in (first, second):
        session.close()


def test_a_worker_for_the_gate_is_ready(spares):
    for session in (spares.take(TASK, stack=True), spares.take(TASK, stack=True)):
        assert session.changes(20.0) == ""
        session.close()


def test_each_sort_is_kept_apart(spares):
    taken = [spares.take(TASK), spares.take(TASK, stack=True)]
    assert len({session.pid for session in [*taken, *spares.sessions()]}) == 4
    for session in taken:
        session.close()


@pytest.mark.parametrize("stack", [False, True])
def test_one_that_has_ended_meanwhile_is_not_handed_out(spares, stack):
    spares.take(TASK, stack).close()
    (ahead,) = spares.sessions()
    os.kill(ahead.pid, signal.SIGKILL)
    while ahead.living:
        time.sleep(0.01)
    session = spares.take(TASK, stack)
    assert session is not ahead
    assert session.living
    session.close()


def test_what_holds_a_worker_is_noted_by_the_evaluation_that_uses_it(host, spares):
    host.reports = before = []
    spares.take(TASK).close()
    assert len(spares.sessions()) == len(before) == 1
    host.reports = after = []
    spares.take(TASK).close()
    assert after == before


def test_one_waits_while_something_is_timed(host, spares):
    judged, trusted = spares.take(TASK), host.spawn(TASK, trusted=True)
    (ahead,) = spares.sessions()
    with taking_turns(judged, [trusted, ahead], Canary(host.device)) as turns:
        turns.give(trusted)
        assert states(ahead) == {"T"}
        turns.give(judged)
        assert states(ahead) == {"T"}
        turns.settle()
    assert "T" not in states(ahead)
    for session in (judged, trusted):
        session.close()


def test_ranks_are_started_when_they_are_asked_for(host, spares, monkeypatch):
    monkeypatch.setattr(host.device, "most_ranks", lambda: 2)
    session = spares.take(load_task("allreduce_add_rms_norm"))
    assert spares.sessions() == []
    session.close()


def test_none_is_left_when_all_ends(tmp_path):
    host = WorkerHost(CpuDevice(), tmp_path)
    spares = Spares(host)
    spares.take(TASK).close()
    spares.take(TASK, stack=True).close()
    left = spares.sessions()
    assert all(session.scratch.exists() for session in left)
    host.close()
    spares.close()
    assert not any(session.scratch.exists() or Path(f"/proc/{session.pid}").exists() for session in left)


def test_none_is_started_where_none_is_wanted(host):
    spares = Spares(host, ahead=False)
    spares.take(TASK).close()
    assert spares.sessions() == []
    spares.close()
