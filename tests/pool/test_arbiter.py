"""One member has the device, all others stand still, and get back the time and the state that they had."""

from __future__ import annotations

import mmap
import os
import signal
import struct
import subprocess
import sys
import threading
import time

import pytest

from fastkernels_env.clock import Stops
from fastkernels_env.device.base import fixed_file
from fastkernels_env.pool.arbiter import Arbiter
from fastkernels_env.sandbox import tree

BUSY = "import os, time\nfor _ in range(2): os.fork()\nos.write(1, b'up\\n')\nwhile True: time.sleep(0.001)"


class Judge:
    """A process with children, and its page."""

    def __init__(self):
        self._file = fixed_file("stops", mmap.PAGESIZE)
        self.stops = Stops(self._file)
        self._process = subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, text=True)
        for _ in range(4):
            assert self._process.stdout.readline() == "up\n"
        self.pid = self._process.pid

    @property
    def processes(self):
        return [self.pid, *tree.descendants(self.pid)]

    @property
    def stopped(self):
        """How many of its four processes stand still."""
        return sum(state(pid) == "T" for pid in self.processes)

    @property
    def stopped_seconds(self):
        return struct.unpack("=d", os.pread(self._file, 8, 0))[0]

    def end(self):
        tree.kill(self.pid)
        self._process.communicate()
        self.stops.close()
        os.close(self._file)


def state(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


@pytest.fixture(params=[False, True], ids=["sure", "hurried"])
def arbiter(request):
    return Arbiter(2, hurried=request.param)


def still(judges):
    """How many processes of each stand still, once the signals that were sent have arrived."""
    time.sleep(0.05)
    return [judge.stopped for judge in judges]


@pytest.fixture
def judges(arbiter):
    made = [Judge() for _ in range(3)]
    for judge in made:
        arbiter.join(judge)
    yield made
    for judge in made:
        judge.end()


def test_all_others_stand_still_with_all_that_they_started(arbiter, judges):
    first, *others = judges
    arbiter.enter(first)
    assert first.stopped == 0
    assert still(others) == [4, 4]
    arbiter.leave(first)
    assert still(judges) == [0, 0, 0]
    assert first.stopped_seconds == 0
    assert all(0.05 <= other.stopped_seconds <= arbiter.seconds for other in others)


def test_what_a_judge_has_stopped_itself_stays_stopped(arbiter, judges):
    first, second, _ = judges
    worker = tree.descendants(second.pid)[0]
    os.kill(worker, signal.SIGSTOP)
    while state(worker) != "T":
        time.sleep(0.001)
    arbiter.enter(first)
    assert still([second]) == [4]
    arbiter.leave(first)
    assert still([second]) == [1]
    assert state(worker) == "T"


def test_a_judge_that_starts_meanwhile_is_stopped_too(arbiter, judges):
    arbiter.enter(judges[0])
    late = Judge()
    try:
        arbiter.join(late)
        assert still([late]) == [4]
        arbiter.leave(judges[0])
        assert still([late]) == [0]
    finally:
        arbiter.part(late)
        late.end()


def test_a_judge_that_dies_gives_the_device_back(arbiter, judges):
    first, second, third = judges
    arbiter.enter(first)
    arbiter.part(first)
    assert still([second, third]) == [0, 0]
    arbiter.enter(second)
    assert still([first, third]) == [0, 4]
    arbiter.leave(second)


def test_a_judge_that_does_not_have_the_device_cannot_give_it_back(arbiter, judges):
    arbiter.enter(judges[0])
    arbiter.leave(judges[1])
    assert still(judges[2:]) == [4]
    arbiter.leave(judges[0])


def test_who_asks_first_is_served_first(arbiter, judges):
    served = []

    def ask(judge):
        arbiter.enter(judge)
        served.append(judge)
        arbiter.leave(judge)

    arbiter.enter(judges[0])
    threads = []
    for judge in (judges[2], judges[1]):
        threads.append(threading.Thread(target=ask, args=(judge,)))
        threads[-1].start()
        while judge not in arbiter._waiting:
            time.sleep(0.001)
    arbiter.leave(judges[0])
    for thread in threads:
        thread.join()
    assert served == [judges[2], judges[1]]


def test_a_seat_is_waited_for_and_the_dead_give_theirs_back(judges, arbiter):
    first, second, third = judges
    arbiter.sit(first)
    arbiter.sit(second)
    waiting = threading.Thread(target=arbiter.sit, args=(third,))
    waiting.start()
    time.sleep(0.05)
    assert waiting.is_alive()
    arbiter.part(second)
    waiting.join(5)
    assert not waiting.is_alive()
    arbiter.rise(third)
    arbiter.rise(first)
    arbiter.sit(third)
