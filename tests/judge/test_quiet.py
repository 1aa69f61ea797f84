"""A quiet device: stopped processes use no processor time, and the judge's own work takes as long as ever."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastkernels_env.device.cpu import CpuDevice
from fastkernels_env.judge.quiet import Canary, NotQuiet, Strays
from fastkernels_env.judge.turns import taking_turns
from fastkernels_env.judge.turnstile import Turnstile

SPIN = "import os\nos.fork()\nwhile True: pass"


class Work:
    """A process that keeps two busy, with what `Turns` asks of a session."""

    helpers = ()

    def __init__(self):
        self.process = subprocess.Popen([sys.executable, "-c", SPIN], start_new_session=True)
        self.pid = self.process.pid
        while not Strays(self.pid).seconds([]):
            time.sleep(0.01)

    def send(self, number):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def pause(self):
        self.send(signal.SIGSTOP)

    def resume(self):
        self.send(signal.SIGCONT)


class Escaped(Work):
    """One that cannot be stopped."""

    def pause(self):
        pass


@pytest.fixture
def trusted():
    yield from started(Work)


@pytest.fixture
def judged():
    yield from started(Work)


@pytest.fixture
def escaped():
    yield from started(Escaped)


def started(kind):
    work = kind()
    yield work
    work.send(signal.SIGKILL)
    work.process.wait()


def turn(judged, trusted):
    with taking_turns(judged, [trusted], Canary(CpuDevice())) as turns:
        turns.give(judged)
        time.sleep(0.05)
        turns.give(trusted)
        time.sleep(0.4)
        turns.give(judged)
        turns.settle()


def test_who_is_stopped_uses_no_time(judged, trusted):
    turn(judged, trusted)


def test_who_goes_on_is_seen(escaped, trusted):
    with pytest.raises(NotQuiet, match="processor time"):
        turn(escaped, trusted)


def test_helpers_of_the_fork_server_may_go_on(escaped, trusted):
    escaped.helpers = (escaped.pid,)
    turn(escaped, trusted)


def test_everyone_goes_on_afterwards(judged, trusted):
    turn(judged, trusted)
    before = Strays(judged.pid).seconds([])
    deadline = time.monotonic() + 20
    while Strays(judged.pid).seconds([]) <= before + 0.02:
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Shared(Turnstile):
    """One of several judges' way to the device; notes whether it is had."""

    shared = True

    def __init__(self, quiet):
        super().__init__()
        self.had, self.quiet = False, quiet

    def enter(self):
        self.had = True

    def leave(self):
        self.had = False


@pytest.mark.parametrize("whole", [True, False])
def test_a_round_may_have_the_device_to_its_end(judged, trusted, whole):
    gate = Shared(lambda: True)
    with taking_turns(judged, [trusted], Canary(CpuDevice()), gate) as turns, turns.round(whole):
        assert gate.had is whole
    assert not gate.had


def test_everyone_stands_still_before_a_round_looks(judged, trusted):
    seen = []

    def look():
        deadline = time.monotonic() + 5  # the kernel takes a moment, for which `Work` does not wait
        while time.monotonic() < deadline and seen != ["T", "T"]:
            seen[:] = [Path(f"/proc/{work.pid}/stat").read_text().split()[2] for work in (judged, trusted)]
        return True

    gate = Shared(look)
    with taking_turns(judged, [trusted], Canary(CpuDevice()), gate) as turns, turns.round(whole=True):
        pass
    assert seen == ["T", "T"]


def test_a_round_does_not_begin_on_a_device_that_is_busy(judged, trusted):
    canary = Canary(Slowed(*QUIET, 0.020))
    with taking_turns(judged, [trusted], canary) as turns, pytest.raises(NotQuiet), turns.round(whole=True):
        raise AssertionError("it began")


def test_what_was_just_seen_to_be_quiet_is_not_looked_at_again(judged, trusted):
    canary = Canary(Slowed(*QUIET, 0.020))
    with taking_turns(judged, [trusted], canary, Shared(lambda: True)) as turns, turns.round(whole=True):
        pass


class Slowed(CpuDevice):
    """Its canary takes the times that are given, the last one for ever."""

    def __init__(self, *seconds):
        super().__init__()
        self.seconds = list(seconds)

    def canary(self):
        return self.seconds.pop(0) if len(self.seconds) > 1 else self.seconds[0]


QUIET = [0.010] * 6


def test_a_canary_that_is_as_fast_as_ever_says_nothing():
    canary = Canary(Slowed(*QUIET, 0.011, 0.012, 0.0105))
    for _ in range(3):
        canary.check()


def test_a_moment_of_noise_is_waited_for():
    canary = Canary(Slowed(*QUIET, 0.050, 0.040, 0.011))
    canary.check()


def test_a_device_that_stays_slow_is_not_quiet():
    canary = Canary(Slowed(*QUIET, 0.010, 0.020))
    canary.check()
    with pytest.raises(NotQuiet, match="20 ms instead of 10 ms"):
        canary.check()


def test_a_device_whose_time_says_nothing_is_quiet():
    Canary(CpuDevice()).check()
