"""What the chaos run hands in, and what it calls good; that verdicts survive is tested with the fleet."""

from __future__ import annotations

import msgspec

from fastkernels_env.bench.chaos import Chaos, replies
from fastkernels_env.bench.killer import MURDERER
from fastkernels_env.types import Outcome

GOOD = Chaos(submissions=4, answers=4, lost=0, doubled=0, unlogged=0, unexpected={}, reasons=[], killed={"judge": 1}, moved=1, seconds=1.0)


def test_replies_are_distinct_and_of_every_kind():
    found = replies(12)
    assert len({item.text for _, item in found}) == 12
    assert {outcome for outcome, _ in found} == {Outcome.ACCEPTED, Outcome.WRONG, Outcome.CRASHED, Outcome.REJECTED}


def test_some_kill_every_judge_that_judges_them():
    murderers = [outcome for outcome, item in replies(50) if MURDERER in item.text]
    assert murderers == [Outcome.CRASHED] * 2


def test_a_lost_a_doubled_and_another_verdict_are_not_good():
    assert GOOD.good
    for change in ({"lost": 1}, {"doubled": 1}, {"unlogged": 1}, {"unexpected": {"accepted became crashed": 1}}):
        assert not msgspec.structs.replace(GOOD, **change).good


def test_a_worker_that_was_killed_excuses_one_verdict():
    mistaken = msgspec.structs.replace(GOOD, unexpected={"accepted became crashed": 1}, killed={"worker": 1})
    assert mistaken.good
    assert not msgspec.structs.replace(mistaken, unexpected={"accepted became crashed": 2}).good
    assert not msgspec.structs.replace(mistaken, unexpected={"crashed became fault": 1}).good, "no killed worker does that"
