"""What presets say about the replies of a group, worked by hand."""

import math
import runpy
from pathlib import Path

import pytest

from fastkernels_env.analysis import Lead, ablate
from fastkernels_env.reward import load_preset

records = runpy.run_path(str(Path(__file__).parent / "records.py"))
record, timed, preset, BLIND, GREEDY = (records[name] for name in ("record", "timed", "preset", "BLIND", "GREEDY"))


@pytest.fixture
def presets(tmp_path):
    return [load_preset("production"), preset(tmp_path, "blind", BLIND), preset(tmp_path, "greedy", GREEDY)]


def groups(presets, *replies):
    """By preset, the one group that the replies are."""
    found = ablate(replies, presets).groups
    assert len(found) == len(presets)
    return {group.preset: group for group in found}


def test_a_group_worked_by_hand(presets):
    found = groups(
        presets, record("right", speedup=1.5, group="g"), record("silent", "silent_error", 3.0, group="g"),
        record("wrong", "wrong", group="g"),
    )
    # production: 1.05 + log 1.5 for the right one leads; blind: right and silent share 1; greedy: log 3 for the silent one.
    production, blind, greedy = (found[name] for name in ("production", "blind", "greedy"))
    assert (production.best, production.lead, production.flip, production.misled) == ("right", Lead.DECIDED, 0, 0)
    assert (blind.best, blind.lead, blind.flip, blind.misled) == ("right", Lead.TIED, 0.5, 0.5)
    assert (greedy.best, greedy.lead, greedy.flip, greedy.misled) == ("silent", Lead.DECIDED, 1, 1)
    assert (blind.size, blind.mean, blind.spread) == (3, pytest.approx(2 / 3), pytest.approx(math.sqrt(2) / 3))
    assert greedy.mean == pytest.approx((math.log(1.5) + math.log(3)) / 3)


def test_equal_rewards_are_flat(presets):
    found = groups(presets, record("a", speedup=1.5, group="g"), record("b", speedup=1.5, group="g"))
    assert {group.lead for group in found.values()} == {Lead.FLAT}
    assert {group.spread for group in found.values()} == {0}
    assert {group.misled for group in found.values()} == {None}  # no unsound reply could mislead


@pytest.mark.parametrize(
    ("rival", "lead"),
    [
        (timed(1.40, 1.45, 1.5), Lead.LOTTERY),  # at its fast end 1.40 * 1.5 / 1.45 = 1.448
        (timed(1.20, 1.25, 1.3), Lead.DECIDED),  # 1.20 * 1.3 / 1.25 = 1.248
    ],
)
def test_a_lead_within_the_interval_is_a_lottery(presets, rival, lead):
    leader = timed(1.5, 1.6, 1.7)  # is paid by the lower end of its interval, which at its slow end is 1.5 * 1.5 / 1.6 = 1.406
    found = groups(presets, record("leader", speedup=leader, group="g"), record("rival", speedup=rival, group="g"))
    assert (found["greedy"].best, found["greedy"].lead) == ("leader", lead)
    assert found["production"].lead is lead


def test_an_interval_without_an_end_decides_nothing_and_breaks_nothing(presets):
    endless, nothing = timed(1.5, 2.0, math.inf), timed(math.nan, 1, 1)
    found = groups(presets, record("a", speedup=endless, group="g"), record("b", speedup=nothing, group="g"))
    assert found["greedy"].best == "a"


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        ({"group": "g"}, {"group": "g"}, True),
        ({"group": "g"}, {"group": "h"}, False),
        ({"group": "g", "run": "a"}, {"group": "g", "run": "b"}, False),
        ({"group": "g", "policy_step": 1}, {"group": "g", "policy_step": 2}, False),
        ({"group": "g", "turn": 0}, {"group": "g", "turn": 1}, False),
        ({"policy_step": 1}, {"policy_step": 1}, True),
        ({"policy_step": 1}, {"policy_step": 2}, False),
        ({"group": "g", "episode": "a"}, {"group": "g", "episode": "b"}, True),
    ],
)
def test_what_makes_a_group(presets, first, second, together):
    found = ablate([record("a", **first), record("b", **second)], presets[:1])
    assert len(found.groups) == together


def test_without_a_recorded_group_the_prompt_makes_it(presets):
    from msgspec.structs import replace

    replies = [replace(record(name), prompt_hash=prompt) for name, prompt in (("a", "x"), ("b", "y"), ("c", "x"))]
    (group,) = ablate(replies, presets[:1]).groups
    assert (group.key.name, group.size) == ("x", 2)


def test_faults_are_in_no_group(presets):
    assert ablate([record("a", group="g"), record("b", "fault", group="g")], presets).groups == ()


def test_shares_over_groups(presets):
    replies = [
        record("a", speedup=1.5, group="1"), record("b", "silent_error", 3.0, group="1"),
        record("c", "wrong", group="2"), record("d", "wrong", group="2"),
    ]
    production, blind, greedy = ablate(replies, presets).group_summaries
    assert (production.groups, production.flat, production.decided, production.flip) == (2, 0.5, 0.5, 0)
    assert (blind.flat, blind.tied, blind.lottery, blind.decided, blind.flip) == (1, 0, 0, 0, 0.25)
    assert (greedy.flip, greedy.contested, greedy.misled) == (0.5, 1, 1)


def test_no_groups_have_no_shares(presets):
    summary = ablate([record("a")], presets).group_summaries[0]
    assert (summary.groups, summary.flat, summary.flip, summary.misled) == (0, None, None, None)
