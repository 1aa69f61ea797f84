"""RLlib trains on the environment of replies, with the real package where it is installed."""

import contextlib
import gc

import pytest

NO_CODE = "I would rather not."


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """One for all tests, so that what one of them judges the next one knows."""
    return tmp_path_factory.mktemp("rllib") / "log.jsonl"


@pytest.fixture(scope="module", autouse=True)
def judges_end():
    """Judges live as long as what they know; tests elsewhere count processes."""
    from fastkernels_env.integrations.rllib import _table

    yield
    _table.cache_clear()
    gc.collect()


@pytest.fixture
def settings(tiny, log):
    from fastkernels_env.spaces import seed_replies

    return {"task": "tiny_scale", "replies": [NO_CODE, *seed_replies(tiny, "cpu")], "device": "cpu", "judges": 1, "log": log}


def test_a_reply_is_paid_its_score_and_judged_once(settings):
    from fastkernels_env import read_log
    from fastkernels_env.integrations.rllib import ReplyEnv

    first, second = ReplyEnv(settings), ReplyEnv(settings)
    paid = []
    for env, action in ((first, 0), (second, 0), (second, 1), (first, 1)):
        env.reset(seed=1)
        _, reward, terminated, truncated, info = env.step(action)
        assert terminated
        assert not truncated
        paid.append((info["outcome"], reward))
    assert [outcome for outcome, _ in paid] == ["rejected", "rejected", "accepted", "accepted"]
    assert paid[0] == paid[1]
    assert paid[2] == paid[3]
    assert paid[0][1] < 0 < paid[2][1]
    assert len(read_log(settings["log"])) == 2


def test_a_fault_is_no_reward_and_not_remembered(settings):
    """No judge answers within a millisecond."""
    from fastkernels_env import EvaluationFault
    from fastkernels_env.integrations.rllib import ReplyEnv

    env = ReplyEnv(settings | {"deadline": 0.001, "log": None})
    for _ in range(2):
        env.reset()
        with pytest.raises(EvaluationFault, match=r"0\.001"):
            env.step(1)


def test_gymnasium_accepts_it(settings):
    import warnings

    from gymnasium.utils.env_checker import check_env

    from fastkernels_env.integrations.rllib import ReplyEnv

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*not within the observation space.*|.*render.*|.*spec.*")
        check_env(ReplyEnv(settings | {"replies": [NO_CODE]}), skip_render_check=True)


@pytest.mark.parametrize(("change", "message"), [
    ({"replies": []}, "at least one reply"),
    ({"replys": []}, "arguments of Grader"),
    ({"task": None}, "'task'"),
])
def test_settings_that_cannot_be_used(settings, change, message):
    from fastkernels_env.integrations.rllib import ReplyEnv

    config = {name: value for name, value in (settings | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        ReplyEnv(config)


@pytest.fixture
def algorithm(settings):
    """PPO in this process, on an environment whose first step of all is a fault."""
    pytest.importorskip("ray.rllib.algorithms.ppo", reason="needs ray[rllib], which pins another gymnasium", exc_type=ImportError)
    import ray
    from ray.rllib.algorithms.ppo import PPOConfig

    from fastkernels_env.integrations.rllib import ReplyEnv

    class FaultsOnce(ReplyEnv):
        faults = 0

        def step(self, action):
            if not FaultsOnce.faults:
                FaultsOnce.faults += 1
                hurried = ReplyEnv(settings | {"deadline": 0.001, "log": None})
                hurried.reset()
                hurried.step(1)
            return super().step(action)

    config = (
        PPOConfig()
        .environment(FaultsOnce, env_config=settings)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=2)
        .learners(num_learners=0)
        .training(train_batch_size_per_learner=64, minibatch_size=32, num_epochs=4, lr=0.01)
        .fault_tolerance(restart_failed_sub_environments=True)
        .debugging(seed=0, log_level="ERROR")
    )
    with contextlib.ExitStack() as stack:
        stack.callback(ray.shutdown)
        algorithm = config.build_algo()
        stack.callback(algorithm.stop)
        yield algorithm
        assert FaultsOnce.faults == 1


def test_ppo_learns_to_choose_the_better_reply_and_survives_a_fault(algorithm, settings):
    from fastkernels_env import read_log

    means = [algorithm.train()["env_runners"]["episode_return_mean"] for _ in range(4)]
    scores = [record.rewards["production"].total for record in read_log(settings["log"])]
    assert len(scores) == 2
    assert min(scores) < means[0] < means[-1]
    assert means[-1] < max(scores) or means[-1] == pytest.approx(max(scores), rel=1e-12)  # a mean of equal numbers is rounded
