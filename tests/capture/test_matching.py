"""Which task an op is a call of."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastkernels_env.capture.matching import TASKS, match, op_of_module
from fastkernels_env.capture.ops import Layout, Op, TensorSpec
from fastkernels_env.capture.rules import expert_block
from fastkernels_env.registry import load_task, task_folders
from fastkernels_env.statements import read_workloads


def tensor(*shape, dtype="bfloat16", stride=()):
    return TensorSpec(shape, dtype, stride)


def changed(op, **numbers):
    return msgspec.structs.replace(op, numbers={**op.numbers, **numbers})


NORM = Op(op="rms_norm", tensors={"input": tensor(4, 16, 2048)})
ADDED = Op(op="add_rms_norm", tensors={"input": tensor(64, 4096)})
ACTIVATION = Op(op="silu_and_mul", tensors={"half": tensor(1, 64, 768)})
LINEAR = Op(op="linear", tensors={"input": tensor(64, 1, 4096), "weight": tensor(6144, 4096)}, part="qkv")
ROPE = Op(op="rope", tensors={"query": tensor(8, 32, 1, 128), "key": tensor(8, 8, 1, 128)}, numbers={"theta": 5e5, "packed": 1})
ATTENTION = Op(
    op="attention", tensors={"query": tensor(8, 32, 1, 128)},
    numbers={"kv_heads": 8, "median": 500, "sigma": 0.9, "low": 16, "high": 8192, "mean": 750},
)
EXPERTS = Op(
    op="experts", tensors={"input": tensor(16, 2048), "w13": tensor(128, 1536, 2048), "w2": tensor(128, 2048, 768)},
    numbers={"top_k": 8, "silu": 1, "zipf": 0.5},
)
PROMPTS = Op(
    op="attention", tensors={"query": tensor(1, 32, 1024, 128)}, numbers={"kv_heads": 8, "sequences": 4, "rows": 1024, "cached": 1}
)
LATENT = changed(ATTENTION, latent=512, turned=64, cached=1)
SINKS = changed(ATTENTION, sinks=1, window=128)
ROUTER = Op(op="router", tensors={"input": tensor(64, 128)}, numbers={"top_k": 8, "renormalize": 1})
MLP = Op(op="mlp", tensors={"input": tensor(1, 64, 4096), "down": tensor(4096, 14336)})
LAYER_NORM = Op(op="layer_norm", tensors={"input": tensor(4, 16, 1280)})
GELU = Op(op="gelu_tanh_and_mul", tensors={"half": tensor(1, 64, 6912)})
NORMED = changed(ROPE, normed=1, packed=0)
EVERY = (
    LAYER_NORM, GELU, NORM, ADDED, ACTIVATION, LINEAR, ROPE, NORMED, ATTENTION, PROMPTS, LATENT, SINKS, ROUTER, MLP, EXPERTS,
)


@pytest.mark.parametrize("op", EVERY, ids=lambda op: op.op)
@pytest.mark.parametrize("layout", [Layout(), Layout(2), Layout(2, True), Layout(experts=2)], ids=["one", "tp", "sp", "ep"])
def test_a_match_has_the_sizes_that_its_task_needs(op, layout):
    for found in match(op, layout):
        assert found.task in TASKS[op.op]
        own = read_workloads(task_folders()[found.task] / "workloads.jsonl", found.task)
        needed = set.intersection(*(set(workload.sizes) for workload in own)) - {"row_stride"}  # rows lie one behind another without it
        assert set(found.sizes) >= needed
        assert set(found.sizes) <= set.union(*(set(workload.sizes) for workload in own))
        moving = [name for name in found.sizes if name not in found.fixed]
        assert moving[0] == load_task(found.task).batch


def sizes(op, layout=None, number=0):
    found = match(op, layout)[number]
    return found.task, found.sizes


def test_sizes_by_hand():
    assert sizes(NORM) == ("rms_norm", {"T": 64, "H": 2048})
    assert sizes(ADDED) == ("fused_add_rms_norm", {"T": 64, "H": 4096})
    assert sizes(ADDED, Layout(2)) == ("allreduce_add_rms_norm", {"T": 64, "H": 4096})
    assert sizes(ACTIVATION) == ("silu_and_mul", {"T": 64, "I": 768})
    assert sizes(LINEAR) == ("linear_decode", {"M": 64, "N": 6144, "K": 4096})
    assert sizes(LINEAR, Layout(2, True)) == ("allgather_gemm", {"T": 32, "N": 6144, "K": 4096})
    assert sizes(ROPE) == ("rope", {"T": 8, "q": 32, "kv": 8, "d": 128, "P": 8192, "row_stride": 6144})
    assert sizes(ATTENTION) == ("gqa_decode", {"B": 8, "q": 32, "kv": 8, "d": 128, "page": 16, "pool": 64})
    assert sizes(EXPERTS) == ("fused_experts", {"T": 16, "k": 8, "E": 128, "H": 2048, "I": 768})
    up = {"T": 16, "k": 8, "E": 128, "N": 1536, "K": 2048, "block": 16, "down": 0}
    assert sizes(EXPERTS, number=1) == ("moe_gemm", up)
    assert sizes(EXPERTS, Layout(experts=2)) == ("moe_dispatch", {"T": 16, "H": 2048, "E": 128, "K": 8})
    assert sizes(EXPERTS, number=4) == ("moe_finalize", {"T": 16, "k": 8, "H": 2048})
    assert sizes(LAYER_NORM) == ("layer_norm", {"T": 64, "H": 1280})
    assert sizes(GELU) == ("gelu_tanh_and_mul", {"T": 64, "I": 6912})
    assert sizes(EXPERTS, number=5) == ("moe_align", {"T": 16, "k": 8, "E": 128, "block": 16})
    assert sizes(ROUTER) == ("topk_softmax", {"T": 64, "E": 128, "k": 8})
    assert sizes(MLP) == ("llama_mlp", {"T": 64, "H": 4096, "I": 14336})
    assert match(changed(ROUTER, renormalize=0))[0].params == {"renormalize": 0.0}
    assert match(EXPERTS)[0].params == {"zipf": 0.5}
    assert match(ROPE)[0].params == {"theta": 5e5, "neox": 1, "run": 1.0}


def test_rows_beyond_what_a_weight_binds_are_another_task():
    many = Op(op="linear", tensors={"input": tensor(4096, 4096), "weight": tensor(6144, 4096)})
    assert sizes(many) == ("linear_prefill", {"M": 4096, "N": 6144, "K": 4096})


def test_attention_by_what_it_sees():
    assert sizes(PROMPTS) == ("gqa_prefill", {"B": 4, "mean": 256, "q": 32, "kv": 8, "d": 128, "page": 16, "pool": 1})
    assert match(PROMPTS)[0].params == {"sigma": 0.7, "prefix": 0.0, "causal": 1.0}
    assert match(changed(PROMPTS, sequences=1, causal=0))[0].params == {"sigma": 0.0, "prefix": 0.0, "causal": 0.0}
    rows = {"T": 1024, "kv": 8, "d": 128, "page": 16, "run": 256, "hnd": 0, "row_stride": 6144}
    assert sizes(PROMPTS, number=1) == ("kv_scatter", rows)
    assert sizes(changed(ATTENTION, cached=1, sequences=8), number=1)[1]["run"] == 1
    assert sizes(LATENT) == ("mla_decode", {"B": 8, "h": 32, "c": 512, "r": 64, "page": 64, "pool": 16})
    assert len(match(LATENT)) == 1, "latents do not go the way of keys and values"
    assert sizes(SINKS) == ("sink_attention", {"B": 8, "q": 32, "kv": 8, "d": 128, "page": 16, "pool": 64})
    assert [match(op)[0].params["window"] for op in (SINKS, changed(SINKS, window=0))] == [127, -1]


def test_heads_with_a_norm_before_they_turn_are_one_more_task():
    normed = {"T": 8, "q": 32, "kv": 8, "d": 128, "rot": 128, "P": 8192}
    assert [sizes(NORMED)[0], sizes(NORMED, number=1)] == ["rope", ("qk_norm_rope", normed)]
    assert [sizes(changed(NORMED, rotary=64))] == [("qk_norm_rope", {**normed, "rot": 64})]


def test_a_slice_of_wider_rows_keeps_its_stride():
    latent = Op(op="rms_norm", tensors={"input": tensor(1, 16, 512, stride=(16 * 576, 576, 1))})
    assert sizes(latent) == ("rms_norm", {"T": 16, "H": 512, "row_stride": 576})
    whole = Op(op="rms_norm", tensors={"input": tensor(1, 16, 512, stride=(16 * 512, 512, 1))})
    assert sizes(whole) == ("rms_norm", {"T": 16, "H": 512})


@pytest.mark.parametrize("op", [
    changed(ROPE, rotary=64),  # a part of the head turns
    changed(ATTENTION, window=128),  # without sinks
    changed(ATTENTION, known=0),  # a mask that was not looked at
    changed(PROMPTS, window=128, cached=0),
    changed(EXPERTS, silu=0),  # another activation
    Op(op="aten::erfinv"),
])
def test_what_no_task_mirrors_has_no_match(op):
    assert match(op) == []


def test_custom_ops_of_serving_engines_are_known():
    rows = {"query": tensor(8, 4096, stride=(6144, 1)), "key": tensor(8, 1024, stride=(6144, 1)), "cos_sin_cache": tensor(8192, 128)}
    rope = Op(op="_C::rotary_embedding", tensors=rows, numbers={"head_size": 128})
    assert sizes(rope) == ("rope", {"T": 8, "q": 32, "kv": 8, "d": 128, "P": 8192, "row_stride": 6144})
    assert sizes(Op(op="_C::silu_and_mul", tensors={"out": tensor(8, 768), "input": tensor(8, 1536)})) == (
        "silu_and_mul", {"T": 8, "I": 768}
    )
    assert match(Op(op="_C::rotary_embedding", tensors={"query": rows["query"]}, numbers={"head_size": 128})) == []


@given(st.floats(0.01, 1e5))
def test_blocks_are_powers_of_two_that_grow_with_the_rows(rows):
    block = expert_block(rows)
    assert block in (16, 32, 64, 128)
    assert expert_block(2 * rows) >= block


@pytest.mark.parametrize(("name", "op"), [
    ("LlamaRMSNorm", "rms_norm"), ("Qwen3NextRMSNormGated", "norm"), ("LayerNorm", "norm"), ("Qwen3MoeExperts", "experts"),
    ("LlamaAttention", "attention"), ("MixtralTopKRouter", "linear"), ("LlamaMLP", "mlp"),
    ("Linear", "linear"), ("SiluAndMul", "silu_and_mul"), ("Conv2d", ""),
])
def test_names_of_classes(name, op):
    assert op_of_module(name) == op
