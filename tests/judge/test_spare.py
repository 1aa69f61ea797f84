"""A worker in advance: it serves as any other, and whatever became of it nobody notices."""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing
from pathlib import Path

import pytest

from fastkernels_env.checks import CheckList
from fastkernels_env.judge.effort import get_effort
from fastkernels_env.judge.errors import JudgeFault
from fastkernels_env.judge.rig import start_worker
from fastkernels_env.judge.scope import Scope
from fastkernels_env.judge.spare import Spare, start_ready
from fastkernels_env.sandbox import tree


@pytest.fixture
def judge(evaluator):
    judge = evaluator.open()
    judge.host.reports = []
    yield judge
    judge.spare.close()
    judge.spare = Spare(lambda: start_ready(judge.host, noted=False))


@pytest.fixture
def scope(judge, tiny):
    return Scope(judge, tiny, 7, get_effort("quick"), CheckList("cpu"))


def states(pid):
    return {Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] for process in (pid, *tree.descendants(pid))}


def test_it_is_the_next_worker_and_is_noted_then(judge, scope):
    judge.spare.prepare()
    judge.spare.settle()
    assert judge.host.reports == []
    with closing(start_worker(scope)) as worker:
        assert judge.host.reports == [worker.report]
        assert worker.changes(10.0) == ""
    assert judge.spare.take() is None


def test_it_stands_still_while_something_is_measured_and_goes_on_when_it_is_asked(judge, scope):
    judge.spare.prepare()
    judge.spare.settle()
    assert states(judge.spare._next.result().pid) == {"T"}
    with closing(start_worker(scope)) as worker:
        assert worker.changes(10.0) == ""


def test_one_that_died_is_not_given(judge, scope):
    judge.spare.prepare()
    judge.spare.settle()
    dead = judge.spare._next.result().pid
    os.kill(dead, signal.SIGKILL)
    while Path(f"/proc/{dead}").exists() and states(dead) != {"Z"}:
        time.sleep(0.01)
    with closing(start_worker(scope)) as worker:
        assert worker.pid != dead
        assert worker.changes(10.0) == ""


def test_one_that_cannot_be_started_is_met_where_it_is_wanted(scope):
    def fail():
        raise JudgeFault("no room")

    spare = Spare(fail)
    spare.prepare()
    spare.settle()
    assert spare.take() is None
    spare.close()


def test_it_ends_with_the_judge(judge):
    judge.spare.prepare()
    judge.spare.settle()
    pid = judge.spare._next.result().pid
    judge.spare.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
