"""The Gymnasium environment, over real evaluations."""

from __future__ import annotations

import json
import pickle
import shutil
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ClosedEnvironmentError, InvalidAction, ResetNeeded
from gymnasium.utils.env_checker import check_env

from fastkernels_env import EvaluationFault, load_preset, read_log
from fastkernels_env.device import DeviceError
from fastkernels_env.env import KernelEnv
from fastkernels_env.prompt import build_prompt, prompt_hash
from fastkernels_env.registration import env_id
from fastkernels_env.registry import load_task, task_folders
from fastkernels_env.reward import PresetError
from fastkernels_env.submission import MAX_CHARS
from fastkernels_env.task import TaskError

PROSE = "I would rather not write a kernel today."
SYNTAX_ERROR = "```python\ndef rms_norm(out, input, weight, epsilon:\n    pass\n```"
# Right wherever it is verified: it stops working once the smoke workload's shape has come up more often than that.
SLACKER = """```cpp
#include <cmath>
#include <fastkernels.h>

void rms_norm(tvm::ffi::TensorView out, tvm::ffi::TensorView input, tvm::ffi::TensorView weight, double epsilon) {
  static int calls = 0;
  if (input.size(0) == 256 && ++calls > 12) return;
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const T* gain = fk::data<T>(weight);
    const int64_t width = input.size(1);
    for (int64_t t = 0; t < input.size(0); ++t) {
      const T* x = fk::data<T>(input) + t * input.stride(0);
      double sum = 0;
      for (int64_t h = 0; h < width; ++h) sum += double(fk::load(x + h)) * fk::load(x + h);
      const double scale = 1 / std::sqrt(sum / width + epsilon);
      for (int64_t h = 0; h < width; ++h) fk::store(fk::data<T>(out) + t * width + h, fk::load(x + h) * scale * fk::load(gain + h));
    }
  });
}
```"""
INFO_TYPES = {
    "outcome": str, "valid": bool, "score": float, "speedup_low": float, "speedup": float, "speedup_high": float, "report": str,
    **{f"seconds/{stage}": float for stage in ("build", "smoke", "verify", "integrate", "profile")},
    **{f"reward/{part}": float for part in load_preset("production").part_names},
}  # fmt: skip


@pytest.fixture
def make(evaluator):
    """Environments of rms_norm over the shared evaluator, past their first reset."""

    def made(**options):
        env = KernelEnv("rms_norm", evaluator=evaluator, effort="quick", **options)
        env.reset(seed=0)
        return env

    return made


@pytest.fixture
def switch(tmp_path, monkeypatch):
    """A file: while it exists, the oracle of the third party's task `flaky` is broken."""
    folder, broken = tmp_path / "flaky", tmp_path / "broken"
    shutil.copytree(task_folders()["rms_norm"], folder, ignore=shutil.ignore_patterns("__pycache__"))
    source = (folder / "task.py").read_text().replace("from ...", "from fastkernels_env.")
    oracle = "    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:\n"
    assert oracle in source
    breaks = f"        if __import__('os').path.exists({str(broken)!r}):\n            raise RuntimeError('the oracle is broken')\n"
    (folder / "task.py").write_text(source.replace(oracle, oracle + breaks))
    monkeypatch.setenv("FASTKERNELS_ENV_PATH", str(tmp_path))
    return broken


@pytest.mark.slow
@pytest.mark.sampled("name", take=2, most=2)
@pytest.mark.parametrize("name", task_folders())
def test_gymnasiums_checker_has_nothing_to_say(name, evaluator):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make(env_id(name), device="cpu", effort="quick", evaluator=evaluator).unwrapped
        # The checker makes further environments from a deep copy of the spec; processes cannot be copied.
        del env.spec.kwargs["evaluator"]
        check_env(env)


def test_the_wrappers_of_make_have_nothing_to_say(evaluator):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make("FastKernels/rms_norm-v0", device="cpu", render_mode="ansi", max_turns=2, evaluator=evaluator)
        env.reset(seed=1)
        env.step(PROSE)
        env.render()
        assert env.step(PROSE)[3]
        env.close()


def test_an_accepted_kernel_ends_a_single_turn_with_its_score(make):
    env = make(render_mode="ansi")
    observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    assert info["outcome"] == "accepted", info["report"]
    assert (terminated, truncated) == (True, False)
    assert type(reward) is float
    assert reward == info["score"] > 0
    assert observation in env.observation_space
    assert observation["turn"] == 1
    assert observation["best_score"] == np.float32(reward)
    assert "accepted" in observation["feedback"]
    assert info["speedup"] > 0
    assert info["seconds/build"] > 0
    report = json.loads(info["report"])
    assert report["outcome"] == "accepted"
    assert report["reward"]["total"] == reward
    assert {f"reward/{name}": value for name, value in report["reward"]["parts"].items()}.items() <= info.items()
    assert "ACCEPTED" in env.render()


def test_reset_observation_and_prompt(make):
    env = make()
    observation, _ = env.reset()
    assert observation in env.observation_space
    assert observation["prompt"] == build_prompt(load_task("rms_norm"), "cpu")
    assert observation["feedback"] == ""
    assert observation["turn"] == 0
    assert observation["best_score"] == 0


def test_info_always_has_the_same_keys_and_types(make):
    env = make(max_turns=2)
    infos = [env.reset()[1], env.step(PROSE)[4], env.step(SYNTAX_ERROR)[4]]
    for info in infos:
        assert {key: type(value) for key, value in info.items()} == INFO_TYPES
    assert [info["outcome"] for info in infos] == ["", "rejected", "build_failed"]
    assert [info["valid"] for info in infos] == [False, True, True]
    assert infos[0]["report"] == "{}"


def test_parts_sum_to_the_score(make):
    info = make().step(PROSE)[4]
    parts = [value for key, value in info.items() if key.startswith("reward/")]
    assert sum(parts) == pytest.approx(info["score"])
    assert info["score"] < 0


def test_by_default_a_turn_is_paid_its_improvement(make):
    env = make(max_turns=4)
    steps = [env.step(action) for action in (PROSE, SYNTAX_ERROR, PROSE, SYNTAX_ERROR)]
    scores = [step[4]["score"] for step in steps]
    assert scores[1] > scores[0]
    assert [step[1] for step in steps] == [scores[0], scores[1] - scores[0], 0.0, 0.0]
    assert sum(step[1] for step in steps) == pytest.approx(max(scores))
    assert [step[2] for step in steps] == [False] * 4
    assert [step[3] for step in steps] == [False, False, False, True]
    assert [step[0]["turn"] for step in steps] == [1, 2, 3, 4]
    assert all(step[0]["feedback"] and step[0]["best_score"] == 0 for step in steps)


def test_raw_credit_pays_every_turn_its_score(make):
    env = make(max_turns=3, credit="raw")
    steps = [env.step(action) for action in (SYNTAX_ERROR, PROSE, SYNTAX_ERROR)]
    assert [step[1] for step in steps] == [step[4]["score"] for step in steps]


def test_a_new_episode_forgets_the_best(make):
    env = make(max_turns=2)
    first = env.step(SYNTAX_ERROR)[1]
    env.reset()
    assert env.step(SYNTAX_ERROR)[1] == first


def test_tampering_is_paid_in_full_and_cannot_be_won_back(make):
    env = make(max_turns=3)
    before = env.step(PROSE)
    tampered = env.step(SLACKER)
    after = env.step(PROSE)
    assert tampered[4]["outcome"] == "tampered", tampered[4]["report"]
    assert tampered[1] == tampered[4]["score"] < before[1]
    assert after[1] == 0
    env.reset()
    assert env.step(SLACKER)[1] == tampered[1]
    assert env.step(PROSE)[1] == before[1]


def test_a_fault_raises_and_leaves_the_episode_as_it_was(switch, evaluator):
    env = KernelEnv("flaky", evaluator=evaluator, effort="quick", max_turns=2)
    observation, _ = env.reset()
    action = env.action_space.sample()
    switch.touch()
    with pytest.raises(EvaluationFault, match="the oracle is broken") as caught:
        env.step(action)
    fault = caught.value
    assert fault.evaluation.outcome == "fault"
    assert fault.observation == observation
    assert {key: type(value) for key, value in fault.info.items()} == INFO_TYPES
    assert not fault.info["valid"]
    assert json.loads(fault.info["report"])["reward"]["total"] is None
    assert str(pickle.loads(pickle.dumps(fault))) == str(fault)
    switch.unlink()
    observation, reward, _, truncated, info = env.step(action)
    assert info["outcome"] == "accepted", info["report"]
    assert observation["turn"] == 1
    assert reward == info["score"]
    assert not truncated


def test_steps_outside_an_episode(make, evaluator):
    env = KernelEnv("rms_norm", evaluator=evaluator)
    with pytest.raises(ResetNeeded, match="call reset"):
        env.step(PROSE)
    env = make()
    env.step(PROSE)
    with pytest.raises(ResetNeeded, match="has ended"):
        env.step(PROSE)
    env.close()
    with pytest.raises(ClosedEnvironmentError):
        env.step(PROSE)
    with pytest.raises(ClosedEnvironmentError):
        env.reset()


@pytest.mark.parametrize("action", [None, 3, b"code", ["code"]])
def test_actions_that_are_no_text(make, action):
    env = make()
    with pytest.raises(InvalidAction, match="expected a reply as text"):
        env.step(action)
    assert env.step(PROSE)[4]["outcome"] == "rejected"


@pytest.mark.parametrize("action", ["", "\0", "\ud800", "x" * 5_000_000, "```python\ncut off"])
def test_unusable_text_is_an_ordinary_evaluation(make, action):
    info = make().step(action)[4]
    assert (info["outcome"], info["valid"]) == ("rejected", True)


def test_long_feedback_stays_inside_the_space(make):
    env = make()
    observation = env.step(SYNTAX_ERROR)[0]
    assert len(observation["feedback"]) <= MAX_CHARS
    assert observation in env.observation_space


def test_rendering(make):
    env = make(render_mode="ansi", max_turns=2)
    assert "nothing has been evaluated" in env.render()
    env.step(PROSE)
    assert "REJECTED" in env.render()
    with pytest.warns(UserWarning, match="render_mode='ansi'"):
        assert make().render() is None


def test_rendering_for_a_person(make, capsys):
    env = make(render_mode="human", max_turns=2)
    assert capsys.readouterr().out == ""
    env.step(PROSE)
    shown = capsys.readouterr().out
    ansi = make(render_mode="ansi", max_turns=2)
    ansi.step(PROSE)
    assert "REJECTED" in shown
    assert _without_times(shown) == _without_times(ansi.render() + "\n")
    assert env.render() is None
    assert capsys.readouterr().out == "", "it was printed in the step"


def _without_times(report):
    return [line for line in report.splitlines() if "seconds" not in line]


def test_closing_twice_and_closing_only_what_is_ones_own(make, evaluator):
    env = make()
    env.close()
    env.close()
    assert evaluator.evaluate("rms_norm", SYNTAX_ERROR).outcome == "build_failed"
    own = KernelEnv("rms_norm", device="cpu")
    own.close()
    own.close()


def test_the_log_holds_the_ids_the_reward_and_the_prompts_hash(tmp_path):
    log = tmp_path / "log.jsonl"
    env = KernelEnv("rms_norm", device="cpu", log=log, max_turns=2, effort="quick")
    observation, _ = env.reset(options={"run": "r", "group": "g", "policy_step": 7})
    rewards = [env.step(PROSE)[4]["score"], env.step("")[4]["score"]]
    env.reset(options={"episode": "e"})
    env.step(PROSE)
    env.close()
    records = read_log(log)
    assert [record.context.turn for record in records] == [0, 1, 0]
    assert [record.context.run for record in records] == ["r", "r", ""]
    assert {(record.context.group, record.context.policy_step) for record in records[:2]} == {("g", 7)}
    assert records[0].context.episode == records[1].context.episode != ""
    assert records[2].context.episode == "e"
    assert [record.rewards["production"].total for record in records[:2]] == rewards
    assert [record.text for record in records] == [PROSE, "", PROSE]
    assert {record.prompt_hash for record in records} == {prompt_hash(observation["prompt"])}
    assert {record.effort for record in records} == {"quick"}


@pytest.mark.parametrize("options", [{"nonsense": 1}, {"run": 3}, {"policy_step": "x"}])
def test_reset_options_that_mean_nothing(make, options):
    with pytest.raises(ValueError, match="reset option"):
        make().reset(options=options)


def test_rewards_by_path_by_preset_and_by_function(make, tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text('summary = "flat"\nbounds = [0.0, 9.0]\n[parts.flat]\nterm = "constant"\nweight = 8.5\n')
    env = make(reward=mine)
    observation, reward, _, _, info = env.step(PROSE)
    assert (reward, info["reward/flat"]) == (8.5, 8.5)
    assert env.observation_space["best_score"].high == 9
    assert observation in env.observation_space
    assert make(reward=load_preset(mine)).step(PROSE)[1] == 8.5
    env = make(reward=lambda evaluation: -3 if evaluation.outcome == "rejected" else 0)
    observation, reward, _, _, info = env.step(PROSE)
    assert (reward, info["score"]) == (-3.0, -3.0)
    assert not [key for key in info if key.startswith("reward/")]
    assert observation in env.observation_space


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"task": "nonsense"}, TaskError, "unknown task 'nonsense'"),
        ({"device": "tpu"}, DeviceError, "'tpu'"),
        ({"reward": "nonsense"}, PresetError, "unknown preset 'nonsense'"),
        ({"reward": 3}, TypeError, "expected reward"),
        ({"max_turns": 0}, ValueError, "max_turns of at least 1, got 0"),
        ({"credit": "all"}, ValueError, "'improvement', 'raw', got 'all'"),
        ({"effort": "some"}, ValueError, "'full', 'quick', got 'some'"),
        ({"render_mode": "rgb_array"}, ValueError, "None, 'ansi', 'human', got 'rgb_array'"),
    ],
)
def test_arguments_that_mean_nothing(options, error, said):
    with pytest.raises(error, match=said):
        KernelEnv(**{"task": "rms_norm", "device": "cpu", **options})


def test_a_given_evaluator_brings_its_device_and_log(evaluator, tmp_path):
    with pytest.raises(ValueError, match="expected device 'cpu'"):
        KernelEnv("rms_norm", device="cuda", evaluator=evaluator)
    with pytest.raises(ValueError, match="expected no log"):
        KernelEnv("rms_norm", log=tmp_path / "log", evaluator=evaluator)
