"""Having the device alone, where others may have left work on it."""

from __future__ import annotations

import pytest

from fastkernels_env.judge import turnstile
from fastkernels_env.judge.turnstile import Turnstile


class Gate(Turnstile):
    """Notes what it is asked for; the device is quiet after so many looks."""

    shared = True

    def __init__(self, busy):
        super().__init__()
        self.told, self._busy = [], busy
        self.quiet = self.look

    def look(self):
        self._busy -= 1
        return self._busy < 0

    def enter(self):
        self.told.append("enter")

    def leave(self):
        self.told.append("leave")


def test_a_quiet_device_is_had_at_once():
    gate = Gate(0)
    with gate.alone(), gate.alone():
        assert gate.told == ["enter"]
    assert gate.told == ["enter", "leave"]


def test_who_enters_is_told_that_it_was_seen_to_be_quiet():
    gate = Gate(0)
    with gate.alone() as seen, gate.alone() as inside:
        assert seen
        assert not inside, "nobody looked again"


def test_nothing_is_said_where_nobody_looks_or_it_is_never_quiet(monkeypatch):
    monkeypatch.setattr(turnstile, "_PATIENCE", 0.0)
    for gate in (Turnstile(), Gate(10**9)):
        with gate.alone() as seen:
            assert not seen


def test_what_is_busy_is_waited_for():
    gate = Gate(3)
    with gate.alone():
        assert gate.told == ["enter"]


def test_others_are_let_go_on_in_between(monkeypatch):
    """What does not end by itself is ended by its own judge, which must not be stopped for that."""
    monkeypatch.setattr(turnstile, "_PATIENCE", 0.0)
    gate = Gate(10**9)
    with gate.alone():
        assert gate.told == ["enter", *["leave", "enter"] * turnstile._TRIES]


def test_who_breaks_off_gives_it_back():
    gate = Gate(0)
    with pytest.raises(KeyError), gate.alone():
        raise KeyError
    assert gate.told == ["enter", "leave"]


def test_a_look_that_fails_gives_it_back():
    gate = Gate(0)
    gate.quiet = lambda: {}["no device"]
    with pytest.raises(KeyError), gate.alone():
        raise AssertionError("it was not had")
    assert gate.told == ["enter", "leave"]
