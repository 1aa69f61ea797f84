"""Rows: a handful of shapes that stand for all calls, in the form that tasks read."""

import json
from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastkernels_env.capture.observation import Observation
from fastkernels_env.capture.ops import Op, TensorSpec
from fastkernels_env.capture.rows import Origin, encode, encode_observation, groups, join, rows
from fastkernels_env.registry import load_task, with_workloads
from fastkernels_env.statements import Workload, read_workloads

ORIGIN = Origin(model="mine", revision="config.json of today", workload="chat", summary="chat prompts", device="cpu")


def norm(tokens, width=64, count=1, kind="decode", steps=1):
    op = Op(op="rms_norm", path=f"{kind}.{tokens}", tensors={"input": TensorSpec((tokens, width), "float32")})
    return Observation(op, kind=kind, count=count, steps=steps)


SEEN = st.lists(
    st.builds(norm, st.integers(1, 4000), st.sampled_from((64, 128)), st.integers(1, 500), st.sampled_from(("prefill", "decode"))),
    min_size=1, max_size=40,
)


@given(SEEN)
def test_rows_stand_for_all_calls(seen):
    made = rows(seen, ORIGIN, most=1000)
    calls = Counter()
    for observation in seen:
        calls[observation.op.tensors["input"].shape[1]] += observation.count
    kept = Counter()
    for row in made:
        kept[row.sizes["H"]] += row.count
    assert kept == calls
    assert len({row.name for row in made}) == len(made)
    assert sum(row.smoke for row in made) == 1
    assert len({tuple(row.sizes.items()) for row in made}) == len(made)
    assert max(o.op.tensors["input"].shape[0] for o in seen) in {row.sizes["T"] for row in made}


@given(SEEN, st.integers(1, 4), st.integers(1, 5))
def test_rows_are_a_handful(seen, each, most):
    made = rows(seen, ORIGIN, each=each, most=most)
    assert 1 <= len(made) <= most
    assert made == rows(seen, ORIGIN, each=each, most=most)


def test_a_row_says_where_it_is_from(tmp_path):
    [row] = rows([norm(16, count=650, steps=10)], ORIGIN)
    assert (row.task, row.model, row.revision, row.workload, row.count) == ("rms_norm", "mine", "config.json of today", "chat", 650)
    assert row.source == "mine, chat prompts; 65 calls a step, 10 steps"
    assert row.name == "decode-16"
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{encode(row)}\n")
    assert read_workloads(path, "rms_norm") == [row]
    assert [w.name for w in load_task(with_workloads("rms_norm", path)).workloads("cpu")] == ["decode-16"]


@given(st.builds(
    Workload, name=st.text(min_size=1), device=st.sampled_from(("cpu", "cuda")), dtype=st.just("float32"), count=st.integers(1, 9),
    sizes=st.dictionaries(st.text(min_size=1), st.integers(0, 9)), params=st.dictionaries(st.text(), st.floats(0, 9)), smoke=st.booleans(),
    task=st.text(), model=st.text(), revision=st.text(), workload=st.text(), source=st.text(),
))
def test_what_is_written_is_what_is_read(row):
    line = encode(row)
    assert "\n" not in line
    assert msgspec.json.decode(line, type=Workload) == row


def test_the_same_shape_in_two_kinds_of_step_is_one_row():
    [row] = rows([norm(16, count=3, kind="decode"), norm(16, count=4, kind="prefill")], ORIGIN)
    assert row.count == 7


def test_ops_that_differ_in_what_the_model_fixes_are_apart():
    assert [group.matches[16].sizes["H"] for group in groups([norm(16, 64), norm(16, 128)])] == [64, 128]


def test_rows_of_several_workloads_keep_names_apart():
    one, other = ([msgspec.structs.replace(row, workload=name) for row in rows([norm(16), norm(64)], ORIGIN)] for name in ("day", "night"))
    joined = join([one, other])
    assert [row.name for row in joined] == ["decode-16", "decode-64", "night-decode-16", "night-decode-64"]
    assert sum(row.smoke for row in joined) == 1


def test_an_observation_is_a_line():
    op = Op(op="experts", tensors={
        "input": TensorSpec((4, 8), "float32"), "w13": TensorSpec((4, 12, 8), "float32"), "w2": TensorSpec((4, 8, 6), "float32"),
    }, numbers={"top_k": 2.0, "silu": 1.0})
    seen = Observation(op, count=3, routing=[[4, 2, 1, 1], [6, 2, 0, 0]], lengths=[5, 3])
    line = json.loads(encode_observation(seen))
    assert line["routing"] == [5.0, 2.0, 0.5, 0.5]
    assert line["lengths"] == [3, 5]
    assert line["tasks"] == ["fused_experts", "moe_align", "moe_finalize", "moe_gemm", "silu_and_mul"]
    assert json.loads(encode_observation(Observation(Op(op="mine::op"))))["tasks"] == []


def test_the_smoke_shape_is_one_on_which_tiles_fit():
    made = rows([norm(37), norm(64), norm(4000)], ORIGIN)
    [smoke] = [row for row in made if row.smoke]
    assert smoke.sizes["T"] == 64


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_rows_are_for_a_device(device):
    assert rows([norm(16)], msgspec.structs.replace(ORIGIN, device=device))[0].device == device
