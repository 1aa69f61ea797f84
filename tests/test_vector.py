"""Several environments over one evaluator."""

from __future__ import annotations

import shutil
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ClosedEnvironmentError, InvalidAction, ResetNeeded
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics

from fastkernels_env.registry import task_folders
from fastkernels_env.vector import KernelVectorEnv

PROSE = "I would rather not write a kernel today."
SYNTAX_ERROR = "```python\ndef rms_norm(out, input, weight, epsilon:\n    pass\n```"
ID = "FastKernels/rms_norm-v0"


@pytest.fixture
def make(evaluator):
    """Vector environments of rms_norm over the shared evaluator, past their first reset."""

    def made(num_envs=2, **options):
        envs = gymnasium.make_vec(ID, num_envs=num_envs, evaluator=evaluator, effort="quick", **options)
        envs.reset(seed=0)
        return envs

    return made


def test_make_vec_gives_same_step_autoreset_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        envs = gymnasium.make_vec(ID, num_envs=4, device="cpu")
    assert isinstance(envs, KernelVectorEnv)
    assert envs.num_envs == 4
    assert envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    observations, infos = envs.reset(seed=3)
    assert observations in envs.observation_space
    assert observations["turn"].tolist() == [0] * 4
    assert len(set(observations["prompt"])) == 1
    assert infos["outcome"].tolist() == [""] * 4
    assert infos["_outcome"].all()
    assert envs.action_space.contains(envs.action_space.sample())
    envs.close()
    envs.close()


def test_every_reply_of_a_single_turn_task_is_judged(make):
    envs = make(3)
    for _ in range(2):
        observations, rewards, terminated, truncated, infos = envs.step([PROSE, SYNTAX_ERROR, PROSE])
        final = infos["final_info"]
        assert final["outcome"].tolist() == ["rejected", "build_failed", "rejected"]
        assert final["score"].tolist() == rewards.tolist()
        assert rewards[1] > rewards[0] == rewards[2]
        assert terminated.all()
        assert not truncated.any()
        assert observations["turn"].tolist() == [0, 0, 0]
        assert observations in envs.observation_space
        assert [observation["turn"] for observation in infos["final_obs"]] == [1, 1, 1]
        assert infos["valid"].tolist() == [False] * 3
        assert final["valid"].tolist() == [True] * 3


def test_arrays_and_masks_of_infos(make):
    infos = make(2, max_turns=2).step([PROSE, SYNTAX_ERROR])[4]
    assert "final_info" not in infos
    for key in ("score", "speedup", "speedup_low", "speedup_high", "seconds/build", "reward/outcome"):
        assert infos[key].dtype == np.float64
        assert infos[f"_{key}"].tolist() == [True, True]
    assert infos["valid"].dtype == np.bool_
    assert infos["outcome"].tolist() == ["rejected", "build_failed"]


def test_several_turns(make):
    envs = make(2, max_turns=2)
    observations, first, terminated, truncated, _ = envs.step([PROSE, SYNTAX_ERROR])
    assert not (terminated | truncated).any()
    assert observations["turn"].tolist() == [1, 1]
    assert all(observations["feedback"])
    observations, second, terminated, truncated, infos = envs.step([SYNTAX_ERROR, PROSE])
    assert truncated.all()
    assert not terminated.any()
    assert observations["turn"].tolist() == [0, 0]
    assert observations["feedback"] == ("", "")
    assert second.tolist() == [first[1] - first[0], 0.0]
    assert infos["final_info"]["score"].tolist() == [first[1], first[0]]


def test_an_accepted_kernel(make):
    envs = make(2)
    _, rewards, terminated, _, infos = envs.step((envs.single_action_space.sample(), PROSE))
    assert infos["final_info"]["outcome"].tolist() == ["accepted", "rejected"], infos["final_info"]["report"]
    assert rewards[0] > 0 > rewards[1]
    assert terminated.all()
    assert infos["final_info"]["speedup"][0] > 0 == infos["final_info"]["speedup"][1]


def test_a_fault_costs_nothing_and_is_marked(tmp_path, monkeypatch, evaluator):
    folder = tmp_path / "broken"
    shutil.copytree(task_folders()["rms_norm"], folder, ignore=shutil.ignore_patterns("__pycache__"))
    source = (folder / "task.py").read_text().replace("from ...", "from fastkernels_env.")
    body = 'x, weight, epsilon = args["input"], args["weight"], args["epsilon"]'
    assert source.count(body) == 1
    (folder / "task.py").write_text(source.replace(body, "raise RuntimeError('the oracle is broken')"))
    monkeypatch.setenv("FASTKERNELS_ENV_PATH", str(tmp_path))
    envs = KernelVectorEnv("broken", 2, evaluator=evaluator, effort="quick", max_turns=3)
    envs.reset()
    observations, rewards, terminated, truncated, infos = envs.step([envs.single_action_space.sample(), PROSE])
    assert rewards[0] == 0 > rewards[1]
    assert truncated.tolist() == [True, False]
    assert not terminated.any()
    final = infos["final_info"]
    assert final["outcome"][0] == "fault"
    assert not final["valid"][0]
    assert final["_valid"].tolist() == infos["_final_info"].tolist() == [True, False]
    assert "the oracle is broken" in final["report"][0]
    assert infos["valid"].tolist() == [False, True]
    assert observations["turn"].tolist() == [0, 1]
    assert infos["final_obs"][0]["turn"] == 0


def test_gymnasiums_vector_wrappers(make):
    envs = RecordEpisodeStatistics(make(2, max_turns=2))
    _, first, *_ = envs.step([PROSE, SYNTAX_ERROR])
    _, second, _, _, infos = envs.step([SYNTAX_ERROR, SYNTAX_ERROR])
    assert infos["episode"]["r"] == pytest.approx(first + second)
    assert infos["episode"]["l"].tolist() == [2, 2]
    infos = DictInfoToList(make(2)).step([PROSE, SYNTAX_ERROR])[4]
    assert [info["final_info"]["outcome"] for info in infos] == ["rejected", "build_failed"]


def test_gymnasiums_own_vector_environments():
    for mode, options in (("sync", {}), ("async", {"shared_memory": False})):
        vector = {"autoreset_mode": AutoresetMode.SAME_STEP, **options}
        envs = gymnasium.make_vec(ID, num_envs=2, vectorization_mode=mode, vector_kwargs=vector, device="cpu", max_turns=2)
        envs.reset(seed=0)
        observations, rewards, *_ = envs.step((PROSE, PROSE))
        assert observations["turn"].tolist() == [1, 1]
        assert all("rejected" in feedback for feedback in observations["feedback"])
        assert (rewards < 0).all()
        envs.close()


def test_resetting_some(make):
    envs = make(2, max_turns=3)
    envs.step([PROSE, PROSE])
    mask = np.array([False, True])
    observations, infos = envs.reset(options={"reset_mask": mask})
    assert observations["turn"].tolist() == [1, 0]
    assert infos["_outcome"].tolist() == [False, True]
    for wrong in (np.array([True]), np.array([0, 1]), [True, False], np.array([False, False])):
        with pytest.raises(ValueError, match="expected reset_mask"):
            envs.reset(options={"reset_mask": wrong})


def test_seeds(make):
    envs = make(2)
    envs.reset(seed=5)
    again = make(2)
    again.reset(seed=[5, 6])
    draws = [[env.np_random.integers(1 << 30) for env in each.envs] for each in (envs, again)]
    assert draws[0] == draws[1]
    assert draws[0][0] != draws[0][1]
    with pytest.raises(ValueError, match="one seed per environment, 2, got 3"):
        envs.reset(seed=[1, 2, 3])


@pytest.mark.parametrize("actions", [[PROSE], PROSE, [PROSE, 3], [PROSE, PROSE, PROSE]])
def test_actions_that_do_not_fit(make, actions):
    envs = make(2, max_turns=2)
    with pytest.raises(InvalidAction, match="expected a sequence of 2 replies"):
        envs.step(actions)
    assert envs.step([PROSE, PROSE])[0]["turn"].tolist() == [1, 1]


def test_use_before_reset_and_after_close(evaluator):
    envs = KernelVectorEnv("rms_norm", 2, evaluator=evaluator)
    with pytest.raises(ResetNeeded):
        envs.step([PROSE, PROSE])
    envs.close()
    with pytest.raises(ClosedEnvironmentError):
        envs.step([PROSE, PROSE])
    assert evaluator.evaluate("rms_norm", PROSE).outcome == "rejected"
    with pytest.raises(ValueError, match="num_envs of at least 1, got 0"):
        KernelVectorEnv("rms_norm", 0, evaluator=evaluator)


def test_rendering(make):
    envs = make(2, render_mode="ansi", max_turns=2)
    envs.step([PROSE, SYNTAX_ERROR])
    reports = envs.render()
    assert "REJECTED" in reports[0]
    assert "BUILD FAILED" in reports[1]


def test_rendering_for_a_person(make, capsys):
    envs = make(2, render_mode="human")
    envs.step([PROSE, SYNTAX_ERROR])
    shown = capsys.readouterr().out
    assert 0 < shown.index("REJECTED") < shown.index("BUILD FAILED")
    assert envs.render() == (None, None)


def test_replies_are_judged_by_several_judges_and_for_several_tasks():
    replies = [PROSE, SYNTAX_ERROR, "```python\ndef rms_norm(out, input, weight, epsilon):\n    pass\n```", PROSE]
    envs = KernelVectorEnv(["rms_norm", "silu_and_mul"], num_envs=4, device="cpu", effort="quick", judges=2)
    try:
        observations, _ = envs.reset(seed=0)
        assert ["rms_norm(" in prompt for prompt in observations["prompt"]] == [True, False, True, False]
        assert envs.evaluator.judges == 2
        _, rewards, terminated, truncated, infos = envs.step(replies)
        assert terminated.all()
        assert not truncated.any()
        assert infos["final_info"]["outcome"].tolist() == ["rejected", "rejected", "wrong", "rejected"]
        assert (rewards < 0).all()
    finally:
        envs.close()


def test_judges_beside_a_given_evaluator_and_unknown_executors_are_refused(evaluator):
    with pytest.raises(ValueError, match="expected no judges beside a given evaluator"):
        KernelVectorEnv("rms_norm", evaluator=evaluator, judges=2)
    with pytest.raises(ValueError, match="expected no executor beside a given evaluator"):
        KernelVectorEnv("rms_norm", evaluator=evaluator, executor="ray")
    with pytest.raises(ValueError, match="expected executor to be one of 'local', 'ray', got 'slurm'"):
        KernelVectorEnv("rms_norm", executor="slurm")
    with pytest.raises(ValueError, match="expected the name of a task, or of several, got none"):
        KernelVectorEnv([])
