"""What the tests of trainers share: judges, and replies to a task that is quick to judge."""

import asyncio

import pytest

from fastkernels_env import Evaluator
from fastkernels_env.integrations.grader import Grader

HANG = "```python\ndef tiny_scale(out, input, weight, factor):\n    while True:\n        pass\n```"


@pytest.fixture(scope="module")
def pool(host_cache):
    """Two judges in processes of their own, as trainers have them; tests elsewhere count processes."""
    with Evaluator("cpu", judges=2) as shared:
        yield shared


@pytest.fixture
def grader(pool, tiny):
    """Judges the quick task; `tiny` says where it is."""
    opened = Grader(evaluator=pool)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def replies(task_files):
    """A right kernel, a wrong one, no kernel, and one that never returns."""
    seed = task_files.texts["cpu"]
    right = f"```cpp\n{seed}\n```"
    return {"right": right, "wrong": right.replace("* float(factor)", ""), "none": "I would rather not.", "hang": HANG}


@pytest.fixture
def broken(tmp_path, task_files):
    """A task over which every judge fails: no reply is at fault."""
    from fastkernels_env.registry import _registered, register_task

    text = task_files.texts["task"]
    assert text.count('args["input"].double()') == 1
    folder = task_files(tmp_path / "broken_scale", task=text.replace('args["input"].double()', 'args["no such argument"]'))
    register_task(folder)
    yield "broken_scale"
    del _registered["broken_scale"]


@pytest.fixture(scope="session")
def tokenizer_of():
    """Makes a tokenizer of single bytes and of whole words, such as a reply with a kernel."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    def make(words, chat_template):
        bytes_alone = {character: number for number, character in enumerate(pre_tokenizers.ByteLevel.alphabet())}
        tokenizer = Tokenizer(models.BPE(vocab=bytes_alone, merges=[]))
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|pad|>", padding_side="left")
        made.add_tokens(list(words))
        made.chat_template = chat_template
        return made

    return make


@pytest.fixture
def later():
    """Runs a coroutine to its end, on an event loop of its own."""
    return asyncio.run
