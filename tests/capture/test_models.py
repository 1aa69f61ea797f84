"""Models of `transformers`: small ones with real tensors, whole ones on meta tensors. Left out where it is not installed."""

import pytest
import torch

from fastkernels_env.capture import facts, models, situations
from fastkernels_env.capture.facts import Facts, FactsError
from fastkernels_env.capture.matching import match
from fastkernels_env.capture.rows import groups

pytest.importorskip("transformers")

COMMON = {
    "hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 500,
    "max_position_embeddings": 1024,
}
TINY = {
    "llama": Facts(name="tiny llama", revision="made up", kind="llama", config={**COMMON, "intermediate_size": 256}),
    "qwen3_moe": Facts(name="tiny qwen", revision="made up", kind="qwen3_moe", config={
        **COMMON, "intermediate_size": 256, "moe_intermediate_size": 64, "num_experts": 16, "num_experts_per_tok": 4}),
    "mixtral": Facts(name="tiny mixtral", revision="made up", kind="mixtral", config={
        **COMMON, "intermediate_size": 96, "num_local_experts": 8, "num_experts_per_tok": 2}),
}
PROMPTS = [5, 11, 30, 7]


def batch_of(text):
    [batch] = situations._read(text, "test")["mine"].batches()
    return batch


DECODE = "[mine]\nsummary = 'x'\ndecode = 4\nsteps = 5\ncontext = { median = 20 }\n"


def decode_sizes(observations):
    """Sizes and counts of decode steps; those of a cache's pool depend on lengths."""
    found = {}
    for group in groups(o for o in observations if o.kind == "decode"):
        for m in group.matches.values():
            sizes = tuple((name, size) for name, size in m.sizes.items() if name != "pool")
            found[m.task, m.part, sizes] = sum(group.calls.values())
    return found


@pytest.mark.parametrize("kind", TINY)
def test_meta_and_real_tensors_tell_the_same(kind):
    torch.manual_seed(0)
    real = models.record_real(models.build(TINY[kind], "float32", "cpu"), PROMPTS, 6, 500, 0)
    meta = models.record(TINY[kind], [batch_of(DECODE)], "float32")
    assert decode_sizes(real) == decode_sizes(meta) != {}


def test_real_tensors_show_routing_and_lengths():
    torch.manual_seed(0)
    seen = models.record_real(models.build(TINY["qwen3_moe"], "float32", "cpu"), PROMPTS, 3, 500, 0)
    decode = [o for o in seen if o.kind == "decode"]
    [experts] = [o for o in decode if o.op.op == "experts"]
    assert all(sum(histogram) == 4 * len(PROMPTS) for histogram in experts.routing)
    assert 0 <= experts.measured().numbers["zipf"] <= 2
    [attention] = [o for o in decode if o.op.op == "attention"]
    first = sorted(length + 1 for length in PROMPTS)
    assert sorted(attention.lengths) == sorted([*first, *(length + 1 for length in first)] * 3)  # two steps, three layers
    [norm] = [o for o in decode if o.op.op == "add_rms_norm" and o.op.path == "model.norm"]
    assert norm.values["input"]["std"] > 0


@pytest.fixture(scope="module")
def llama():
    return models.record(facts.load("Llama-3.1-8B"), situations.load("decode-64")["decode-64"].batches(), "bfloat16")


def test_a_whole_model_runs_from_its_configuration_alone(llama):
    found = {(m.task, m.part): (m.sizes, o.count) for o in llama for m in match(o.op)}
    assert found["rms_norm", ""] == ({"T": 64, "H": 4096}, 1023)
    assert found["linear_decode", "gate-up"] == ({"M": 64, "N": 28672, "K": 4096}, 32 * 1023)
    assert found["gqa_decode", ""][1] == 32 * 1023
    assert found["rope", ""][0]["P"] == 131072


def test_strides_of_slices_come_out_of_the_model():
    batches = situations.load("prefill-1024")["prefill-1024"].batches()
    [seen] = [group for group in groups(models.record(facts.load("DeepSeek-V3"), batches, "bfloat16")) if group.part == "kv-latent"]
    assert seen.matches[1024].sizes == {"T": 1024, "H": 512, "row_stride": 576}


def test_layers_without_rotation_are_not_counted():
    seen = models.record(facts.load("Command R7B"), situations.load("decode-1")["decode-1"].batches(), "bfloat16")
    [rope] = [o for o in seen if o.op.op == "rope"]
    assert rope.count == 24 * 1023
    assert rope.op.numbers["neox"] == 0


def test_a_rank_has_its_share():
    seen = models.record(facts.load("Mixtral-8x7B").sharded(2), situations.load("decode-16")["decode-16"].batches(), "bfloat16")
    found = {(m.task, m.part): m.sizes for o in seen for m in match(o.op)}
    assert found["fused_experts", ""]["I"] == 7168
    assert (found["gqa_decode", ""]["q"], found["gqa_decode", ""]["kv"]) == (16, 4)
    assert found["linear_decode", "out"] == {"M": 16, "N": 4096, "K": 2048}


@pytest.mark.parametrize("name", facts.shipped())
def test_facts_are_fields_of_the_configuration(name):
    """A misspelt field would be taken for one more, and its default would stand."""
    import transformers

    known = facts.load(name)
    default = transformers.AutoConfig.for_model(known.kind)
    for field in known.config:
        assert hasattr(default, field) or field == "head_dim", field  # which some models read only if it is there


def test_a_model_that_does_not_exist_is_named():
    with pytest.raises(FactsError, match="transformers makes no causal language model of kind 'nope'"):
        models.build(Facts(name="mine", revision="", kind="nope", config={}), "float32", "meta")
