"""From the scores of an episode's turns to their rewards."""

import math
import runpy
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastkernels_env import reward
from fastkernels_env.env import EvaluationFault, KernelEnv
from fastkernels_env.reward import Credit, turn_rewards
from fastkernels_env.reward.credit import KINDS, Turn, potential
from fastkernels_env.types import Outcome, Reward

strategies = runpy.run_path(str(Path(__file__).parent / "strategies.py"))
bare = strategies["bare"]


class Scores:
    """A scorer that reads the score off the record."""

    def score(self, evaluation):
        fault = evaluation.outcome is Outcome.FAULT
        return Reward(preset="scores", total=None if fault else evaluation.workloads_right)


def episode(*scores):
    """Records with these scores: None is a fault, a tuple's score is one for tampering."""
    outcomes = [Outcome.FAULT if s is None else Outcome.TAMPERED if isinstance(s, tuple) else Outcome.WRONG for s in scores]
    values = [0.0 if s is None else s[0] if isinstance(s, tuple) else s for s in scores]
    return [bare(outcome, workloads_right=value) for outcome, value in zip(outcomes, values, strict=True)]


def paid(credit, *scores):
    return turn_rewards(credit, episode(*scores), Scores())


@pytest.mark.parametrize(
    ("credit", "scores", "rewards"),
    [
        (Credit("raw"), (0.5, 0.2, None, 0.9), [0.5, 0.2, None, 0.9]),
        (Credit(), (), []),
        (Credit(), (0.5, 0.2, None, 0.9), [0.5, 0.0, None, 0.4]),
        (Credit(), (-0.5, -0.2), [-0.5, 0.3]),
        # cheating is paid in full, is no best to improve on, and is not won back
        (Credit(), (0.5, (-1.0,), 0.6), [0.5, -1.0, 0.1]),
        (Credit(), ((-1.0,), 0.6), [-1.0, 0.6]),
        # the trajectory of Kevin's source: 0.6, 4.27, wrong, failed, 9.61 times as fast; 0.3 more for each right kernel
        (Credit("discounted", 0.4), (0.9, 4.57, 0.0, 0.0, 9.91), [2.981696, 5.20424, 1.5856, 3.964, 9.91]),
        # a fault is left out as if it had not been a turn
        (Credit("discounted", 0.5), (1.0, None, 1.0), [1.5, None, 1.0]),
        (Credit("discounted", 0.0), (1.0, 2.0), [1.0, 2.0]),
        (Credit("discounted", 1.0), (1.0, (-1.0,), 2.0), [2.0, 1.0, 2.0]),
        # 0.5 + 0.5 * 0.5 - 0; 0.2 + 0.5 * 0.5 - 0.5; 0.9 + 0.5 * 0 - 0.5
        (Credit("potential", 0.5), (0.5, 0.2, 0.9), [0.75, -0.05, 0.4]),
        (Credit("potential", 0.5), (0.5, None, (-1.0,), 0.9), [0.75, None, -1.25, 0.4]),
        (Credit("potential", 0.5), (0.7,), [0.7]),
    ],
)
def test_worked_values(credit, scores, rewards):
    assert paid(credit, *scores) == pytest.approx(rewards)


score = st.floats(-1, 2)
turns = st.lists(st.builds(Turn, score=score, tampered=st.booleans()), max_size=8)


@given(turns, st.floats(0, 1))
def test_shaping_by_potential_cancels_over_an_episode(turns, gamma):
    shaping = [r - turn.score for r, turn in zip(potential(turns, gamma), turns, strict=True)]
    assert math.fsum(gamma**t * extra for t, extra in enumerate(shaping)) == pytest.approx(0, abs=1e-9)


@given(st.lists(score, min_size=1, max_size=8))
def test_improvements_sum_to_the_best(scores):
    assert math.fsum(paid(Credit(), *scores)) == pytest.approx(max(scores))


@pytest.mark.parametrize("kind", KINDS)
@given(scores=st.lists(st.none() | score, max_size=8), at=st.integers(0, 8))
def test_a_fault_changes_nobody_elses_reward(kind, scores, at):
    credit = Credit(kind, 0.5 if kind in ("discounted", "potential") else 1.0)
    without = paid(credit, *scores)
    with_fault = paid(credit, *scores[:at], None, *scores[at:])
    assert with_fault == [*without[:at], None, *without[at:]]
    assert [r is None for r in without] == [s is None for s in scores]


@pytest.mark.parametrize("kind", KINDS)
@given(scores=st.lists(score, min_size=1, max_size=8))
def test_the_last_turn_of_a_single_turn_episode_earns_its_score(kind, scores):
    assert paid(Credit(kind), scores[0]) == [scores[0]]


@pytest.fixture(scope="module")
def env():
    env = KernelEnv("rms_norm", device="cpu", max_turns=50)
    yield env
    env.close()


@settings(max_examples=50)
@given(several=st.lists(strategies["evaluations"](), max_size=5))
def test_improvement_is_what_the_environment_pays(env, several):
    env.reset()
    expected = turn_rewards(Credit("improvement"), several, env.scorer)
    for evaluation, reward_of_turn in zip(several, expected, strict=True):
        scored = msgspec.structs.replace(evaluation, rewards={"production": env.scorer.score(evaluation)})
        if reward_of_turn is None:
            with pytest.raises(EvaluationFault):
                env.settle(scored)
        else:
            assert env.settle(scored)[1] == reward_of_turn


def test_what_presets_say():
    assert reward.load_preset("kevin").credit == Credit("discounted", 0.4)
    assert reward.load_preset("production").credit == Credit("improvement")


@pytest.mark.parametrize(
    ("kind", "gamma", "says"),
    [
        ("all", 1.0, "kind: unknown kind 'all'; known are: raw"),
        ("discounted", 1.5, "gamma: expected a discount"),
        ("discounted", math.nan, "gamma: expected a discount"),
        ("improvement", 0.4, "gamma: 'improvement' discounts nothing"),
    ],
)
def test_credits_that_mean_nothing(kind, gamma, says):
    with pytest.raises(ValueError, match=says):
        Credit(kind, gamma)
