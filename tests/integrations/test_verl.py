"""verl's own data set reads the rows, and its own reward worker loads the function by its configuration and calls it."""

import json
import os

import pytest

pytest.importorskip("verl", reason="needs verl: make test-integrations", exc_type=ImportError)

import numpy as np
import torch
import verl
from hydra import compose, initialize_config_dir
from tensordict import TensorDict
from verl import DataProto
from verl.experimental.reward_loop.reward_loop import RewardLoopWorker
from verl.utils.dataset.rl_dataset import RLHFDataset

from fastkernels_env import read_log
from fastkernels_env.integrations.verl import compute_score, verl_rows

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


@pytest.fixture
def row(tiny):
    """The one row of the quick task."""
    (only,) = verl_rows(device="cpu", tasks=["tiny_scale[whole]"], hold_out_tasks=0, hold_out_workloads=0)
    return only


@pytest.fixture
def tokenizer(replies, tokenizer_of):
    return tokenizer_of(list(replies.values()), TEMPLATE)


def config_of(folder, tokenizer, **settings):
    """verl's configuration of a PPO run, with our reward function in it as the guide has it."""
    tokenizer.save_pretrained(folder)
    with initialize_config_dir(os.path.join(os.path.dirname(verl.__file__), "trainer", "config"), version_base=None):
        return compose("ppo_trainer", overrides=[
            "reward.num_workers=1", "reward.custom_reward_function.path=pkg://fastkernels_env.integrations.verl",
            "reward.custom_reward_function.name=compute_score", f"actor_rollout_ref.model.path={folder}",
            "data.max_prompt_length=20000",
            *(f"+reward.custom_reward_function.reward_kwargs.{name}={value}" for name, value in settings.items()),
        ])


def batch_of(tokenizer, row, texts):
    """What rollouts hand to the reward worker: prompts, padded replies, and the columns of the data set."""
    replies = [tokenizer.encode(text) for text in texts]
    ends = [len(ids) for ids in replies]
    padded = torch.tensor([ids + [tokenizer.pad_token_id] * (max(ends) - len(ids)) for ids in replies])
    seen = torch.tensor([[1] * (1 + end) + [0] * (max(ends) - end) for end in ends])
    tensors = {"prompts": torch.zeros(len(texts), 1, dtype=torch.long), "responses": padded, "attention_mask": seen}
    columns = {name: np.array([row[name]] * len(texts), dtype=object) for name in ("data_source", "reward_model", "extra_info")}
    return DataProto(batch=TensorDict(tensors, batch_size=len(texts)), non_tensor_batch=columns)


def test_the_data_set_reads_the_rows(tmp_path, tokenizer, row):
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(row) + "\n")
    config = config_of(tmp_path / "model", tokenizer)
    data = RLHFDataset(str(path), tokenizer, config.data)
    assert len(data) == 1  # the prompt is not too long
    read = data[0]
    assert read["reward_model"]["ground_truth"] == "tiny_scale[whole]"
    assert (read["data_source"], read["raw_prompt"]) == ("fastkernels_env", row["prompt"])


def test_the_reward_worker_loads_and_calls_it(tmp_path, tokenizer, row, replies, broken, later):
    log = tmp_path / "log.jsonl"
    config = config_of(tmp_path / "model", tokenizer, device="cpu", judges=1, log=str(log), run="first", fault_score=-0.25)

    async def run():
        worker = RewardLoopWorker(config)
        right, none = batch_of(tokenizer, row, [replies["right"], replies["none"]]).split(1)
        lost = batch_of(tokenizer, {**row, "reward_model": {"style": "rule", "ground_truth": broken}}, [replies["right"]])
        return await worker.compute_score_batch(DataProto.concat([right, none, lost]))

    right, none, lost = later(run())
    assert right["reward_score"] > none["reward_score"]
    assert lost["reward_score"] == -0.25
    extras = [one["reward_extra_info"] for one in (right, none, lost)]
    assert [(extra["outcome"], extra["valid"]) for extra in extras] == [("accepted", 1.0), ("rejected", 1.0), ("fault", 0.0)]
    assert extras[0].keys() == extras[1].keys() == extras[2].keys()
    assert extras[0]["reward/total"] == right["reward_score"]
    records = read_log(log)
    assert {record.prompt_hash for record in records} == {row["extra_info"]["prompt_hash"]}
    assert {record.context.run for record in records} == {"first"}


def test_an_unknown_setting_is_named(later):
    with pytest.raises(TypeError, match="colour"):
        later(compute_score("", "", "tiny_scale", {}, colour="red"))
