"""TRL's own trainer takes steps with a model of a few thousand parameters whose replies are whole kernels, one token each."""

import json

import msgspec
import pytest

pytest.importorskip("trl", reason="needs trl: make test-integrations", exc_type=ImportError)

from datasets import Dataset
from transformers import Qwen3Config, Qwen3ForCausalLM
from trl import GRPOConfig, GRPOTrainer
from trl.chat_template_utils import qwen3_chat_template

from fastkernels_env.dataset import rows
from fastkernels_env.integrations.trl import KernelEnvironment, log_parts, reward_function

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
TASK = "tiny_scale[whole]"


def trainer_of(tokenizer, words, folder, data, **arguments):
    """A trainer of a tiny model that can say one of `words`, or end."""
    allowed = {*tokenizer.convert_tokens_to_ids(list(words)), tokenizer.eos_token_id}
    model = Qwen3ForCausalLM(Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        head_dim=8, max_position_embeddings=32768,
    ))
    settings = GRPOConfig(
        output_dir=str(folder), max_steps=1, per_device_train_batch_size=4, num_generations=4, report_to=[], use_cpu=True, bf16=False,
        logging_steps=1, save_strategy="no", learning_rate=1e-2, seed=3, disable_tqdm=True, beta=0.0,
        generation_kwargs={"suppress_tokens": [number for number in range(len(tokenizer)) if number not in allowed]},
        **arguments.pop("config"),
    )
    return GRPOTrainer(
        model=model, args=settings, processing_class=tokenizer, train_dataset=Dataset.from_list(data), **arguments
    )


@pytest.fixture
def data(tiny):
    return rows(device="cpu", tasks=[TASK], hold_out_tasks=0, hold_out_workloads=0) * 2


def last_log(trainer):
    return next(entry for entry in trainer.state.log_history if "reward" in entry)


def test_a_step_with_the_reward_function(grader, data, replies, tokenizer_of, tmp_path):
    words = [replies["right"], replies["wrong"], replies["none"]]
    trainer = trainer_of(
        tokenizer_of(words, qwen3_chat_template), words, tmp_path, data, reward_funcs=reward_function(grader, run="trl"),
        config={"max_completion_length": 1, "temperature": 2.0}
    )
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.train()
    log = last_log(trainer)
    assert log["reward"] == pytest.approx(log["reward/total"])
    assert {f"reward/{part}" for part in grader.scorer.part_names} <= log.keys()
    assert sum(value for name, value in log.items() if name.startswith("outcome/")) == pytest.approx(1.0)
    if log["reward_std"] > 0:
        assert any(not old.equal(new) for old, new in zip(before, trainer.model.parameters(), strict=True))


def test_rewards_of_conversations_and_a_fault_that_is_left_out(grader, tiny, broken, replies, later):
    function = reward_function(grader)
    logged, columns = {}, {}
    completions = [[{"role": "assistant", "content": replies[name]}] for name in ("right", "none", "right")]
    rewards = later(function(
        prompts=[[]] * 3, completions=completions, completion_ids=[[]] * 3, task=[TASK, TASK, broken], prompt_hash=["h"] * 3,
        log_metric=logged.__setitem__, log_extra=columns.__setitem__, split=["train"] * 3,
    ))
    assert rewards[2] is None
    assert rewards[0] > rewards[1]
    assert columns["outcome"] == ["accepted", "rejected", "fault"]
    assert columns["reward/total"][:2] == rewards[:2]
    assert logged["reward/total"] == pytest.approx((rewards[0] + rewards[1]) / 2)
    assert logged["outcome/fault"] == pytest.approx(1 / 3)


def call(code):
    return f"<tool_call>\n{json.dumps({'name': 'submit_kernel', 'arguments': {'code': code}})}\n</tool_call>"


def test_a_step_with_the_environment(grader, data, replies, tokenizer_of, tmp_path):
    made, words = [], [call(replies["none"]), call(replies["none"] + "!")]

    def factory():
        made.append(KernelEnvironment(grader))
        return made[-1]

    trainer = trainer_of(
        tokenizer_of(words, qwen3_chat_template), words, tmp_path, data, environment_factory=factory, reward_funcs=log_parts,
        config={"max_completion_length": 4000, "max_tool_calling_iterations": 2, "temperature": 1.0},
    )
    trainer.train()
    log = last_log(trainer)
    assert len(made) == 4  # one for each of the group, the one that was asked for its tools among them
    assert log["tools/call_frequency"] > 0
    assert log["tools/failure_frequency"] == 0
    assert log["rewards/KernelEnvironment/mean"] == pytest.approx(log["reward"])
    rollouts = [one for environment in made for one in environment.graded]
    assert all((one.outcome, one.evaluation.task) == ("rejected", TASK) for one in rollouts)


def test_an_environment_is_worth_its_best_submission_and_forgets_it(grader, tiny, replies, later):
    environment = KernelEnvironment(grader, run="r")

    async def rollout(*names):
        assert environment.reset(task=TASK, prompt="p", split="train") is None
        told = [await environment.submit_kernel(replies[name]) for name in names]
        return told, await environment.get_reward(), [one.score for one in environment.graded], environment.graded

    told, reward, scores, graded = later(rollout("right", "none"))
    assert reward == scores[0] > scores[1]
    assert told[1] == graded[1].feedback
    assert [one.evaluation.context.turn for one in graded] == [0, 1]
    assert len({one.evaluation.context.episode for one in graded}) == 1
    environment.graded = [graded[0], msgspec.structs.replace(graded[1], outcome="tampered", score=-1.0)]
    assert later(environment.get_reward()) == scores[0] - 1.0  # a cheat is paid in full, whatever came before
    _, nothing, rejected, _ = later(rollout())
    assert [nothing] == rejected
    assert nothing < 0  # to submit nothing is worth what an empty reply is


def test_rollouts_in_which_every_evaluation_failed_have_no_reward(grader, broken, replies, later):
    environment = KernelEnvironment(grader)
    environment.reset(task=broken)
    assert later(environment.submit_kernel(replies["right"]))
    assert later(environment.get_reward()) is None
    assert log_parts([environment]) == [None]
