"""``fastkernels-env capture`` and ``evaluate --workloads`` as a person meets them."""

import json
import textwrap

import pytest

from fastkernels_env.capture.script import ScriptError, record_script
from fastkernels_env.cli import run
from fastkernels_env.registry import load_task

SCRIPT = """
    import sys

    import torch

    assert sys.argv[1:] == ["4"], sys.argv
    with torch.no_grad():
        torch.nn.RMSNorm(64)(torch.randn(int(sys.argv[1]), 64))
    print("done")
"""
CONFIG = {
    "model_type": "qwen3_moe", "hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 32, "num_experts": 8,
    "num_experts_per_tok": 2, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 200,
    "max_position_embeddings": 512,
}
TRAFFIC = """
    [mine]
    summary = "my chats"
    requests = 20
    prompt = { median = 20, sigma = 0.5, low = 4, high = 60 }
    output = { median = 6, sigma = 0.5, low = 2, high = 20 }
    server = { max_tokens = 64, max_batch = 8 }
"""


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(textwrap.dedent(SCRIPT))
    (tmp_path / "mine.toml").write_text(textwrap.dedent(TRAFFIC))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_script_is_captured_and_judged_against(files, capsys):
    assert run(["capture", "mine.py", "--out", "rows.jsonl", "--observations", "seen.jsonl", "--device", "cpu", "4"]) == 0
    assert "done" in capsys.readouterr().out
    [row] = read(files / "rows.jsonl")
    assert (row["task"], row["name"], row["sizes"], row["workload"]) == ("rms_norm", "call-4", {"T": 4, "H": 64}, "mine.py 4")
    [seen] = read(files / "seen.jsonl")
    assert seen["values"]["input"]["std"] > 0
    seed = load_task("rms_norm").folder / "seeds" / "cpu.cpp"
    arguments = ["evaluate", "rms_norm", str(seed), "--workloads", "rows.jsonl", "--device", "cpu", "--effort", "quick", "--json"]
    assert run(arguments) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["outcome"] == "accepted"
    assert record["task"].startswith(f"rms_norm[@{files / 'rows.jsonl'}#")
    assert [timing["workload"] for timing in record["timings"]] == ["call-4"]


def test_a_script_that_fails_is_named(files):
    with pytest.raises(ScriptError, match=r"mine.py failed: AssertionError: .*; it must run to its end by itself"):
        record_script(files / "mine.py", ["5"])
    (files / "ends.py").write_text("raise SystemExit(3)")
    with pytest.raises(ScriptError, match="ended with status 3"):
        record_script(files / "ends.py", [])
    (files / "ends.py").write_text("raise SystemExit(0)")
    assert record_script(files / "ends.py", []) == []


@pytest.mark.parametrize("real", [(), ("--real", "--tokens", "3", "--batch", "4")], ids=["meta", "real"])
def test_a_configuration_is_captured_the_same_twice(files, capsys, real):
    pytest.importorskip("transformers")
    for out in ("one.jsonl", "two.jsonl"):
        arguments = ["capture", ".", "--workload", "mine.toml", "--dtype", "float32", "--device", "cpu", "--out", out, *real]
        assert run(arguments) == 0
    assert (files / "one.jsonl").read_text() == (files / "two.jsonl").read_text()
    made = read(files / "one.jsonl")
    long = {"linear_prefill"} if real else set()  # prompts are padded to the longest then
    assert {row["task"] for row in made} == long | {
        "rms_norm", "fused_add_rms_norm", "rope", "qk_norm_rope", "gqa_decode", "gqa_prefill", "kv_scatter", "linear_decode",
        "topk_softmax", "fused_experts", "moe_align", "moe_finalize", "moe_gemm", "silu_and_mul",
    }
    assert all(row["workload"] == "mine" and row["revision"].startswith("config.json with SHA-256") and row["count"] > 0 for row in made)
    for task in {row["task"] for row in made}:
        assert load_task(f"{task}[@{files / 'one.jsonl'}]").workloads("cpu")


@pytest.mark.parametrize(("arguments", "message"), [
    (["nope", "--out", "x"], "there is no model 'nope'; known are Llama-3.1-8B"),
    (["nope.py", "--out", "x"], "there is no script nope.py"),
    (["Llama-3.1-8B", "--workload", "nope", "--out", "x"], "there is no workload 'nope'; known are chat"),
    (["Llama-3.1-8B", "--dtype", "int3", "--out", "x"], "expected --dtype to be one of bfloat16"),
    (["Llama-3.1-8B", "--device", "tpu", "--out", "x"], "expected --device to be cpu or cuda"),
    (["Llama-3.1-8B", "--out", "x", "more"], "is no script"),
])
def test_bad_arguments_are_one_sentence(files, capsys, arguments, message):
    assert run(["capture", *arguments]) == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert "\n" not in said


def test_a_script_without_known_ops_says_so(files, capsys):
    (files / "idle.py").write_text("import torch; torch.ones(3).cumsum(0)")
    assert run(["capture", "idle.py", "--out", "rows.jsonl"]) == 1
    assert "none that a task mirrors" in capsys.readouterr().err
