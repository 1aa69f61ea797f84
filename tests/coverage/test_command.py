"""The command on a few architectures of the installed transformers."""

import importlib.util
import json

import pytest

from fastkernels_env.cli import run

installed = pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")


@pytest.fixture
def cli(capsys, monkeypatch):
    """Run a command line in this process: exit status, standard output, standard error."""
    monkeypatch.setattr("signal.signal", lambda *_: None)

    def call(*arguments):
        status = run([str(argument) for argument in arguments])
        return (status, *capsys.readouterr())

    return call


@pytest.mark.skipif(importlib.util.find_spec("transformers") is not None, reason="transformers is installed")
def test_without_transformers_it_says_what_to_install(cli):
    status, _, err = cli("coverage")
    assert status == 2
    assert "pip install 'fastkernels-env[models]'" in err


@installed
def test_an_unknown_architecture_is_refused_with_a_hint(cli):
    status, _, err = cli("coverage", "--architecture", "lama")
    assert status == 2
    assert "'lama'" in err
    assert "llama" in err


def test_an_earlier_walk_is_summed_up_without_transformers(cli, tmp_path):
    lines = [
        {"name": "a", "model_type": "a", "category": "llm", "seconds": {"rms_norm": 0.95, "never_a_task": 0.05}, "covered": False},
        {"name": "b", "model_type": "b", "category": "vision", "seconds": {"never_a_task": 1.0}, "ops": {"never_a_task": ["fft"]}},
    ]
    file = tmp_path / "walk.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    status, text, _ = cli("coverage", "--again", file, "--json")
    result = json.loads(text)
    assert status == 0
    assert (result["all"]["covered"], result["all"]["total"]) == (1, 2)
    assert [m["task"] for m in result["missing"]] == ["never_a_task"]
    assert cli("coverage", "--again", file)[1].count("never_a_task") == 2
    status, text, _ = cli("coverage", "--again", file, "--architecture", "a")
    assert "95.0%" in text


def test_a_file_that_is_no_walk_is_refused(cli, tmp_path):
    (tmp_path / "no.jsonl").write_text("{}\n")
    status, _, err = cli("coverage", "--again", tmp_path / "no.jsonl")
    assert status == 2
    assert "name a file that --out of this command wrote" in err


@installed
def test_a_decoder_an_encoder_and_a_convolutional_net(cli, tmp_path):
    out = tmp_path / "coverage.jsonl"
    names = ("llama", "bert", "resnet")
    status, text, _ = cli("coverage", "--json", "--out", out, *(part for name in names for part in ("--architecture", name)))
    assert status == 0
    result = json.loads(text)
    found = {a["name"]: a for a in result["architectures"]}
    assert [found[name]["problem"] for name in names] == [""] * 3
    assert [found[name]["category"] for name in names] == ["llm", "recsys", "edge"]
    assert {s["name"]: s["count"] for s in found["llama"]["steps"]} == {"prefill": 8, "decode": 256}
    norms, products = {"rms_norm", "fused_add_rms_norm"}, {"linear_decode", "linear_prefill"}
    decoder = {*norms, *products, "gqa_decode", "gqa_prefill", "rope", "silu_and_mul", "kv_scatter"}
    assert decoder <= found["llama"]["seconds"].keys()
    assert max(found["resnet"]["seconds"], key=found["resnet"]["seconds"].get) == "conv2d_nhwc"
    assert "layer_norm" in found["bert"]["seconds"]
    assert result["all"]["total"] == 3
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["name"] for line in lines] == list(names)
    assert all(0 <= line["covered_share"] <= 1 for line in lines)
    marked = [{**line, "model_class": "kept"} for line in lines[:2]] + [{**lines[2], "problem": "it was interrupted"}]
    out.write_text("".join(json.dumps(line) + "\n" for line in marked))
    again = json.loads(cli("coverage", "--json", "--out", out, *(part for name in names for part in ("--architecture", name)))[1])
    assert [a["model_class"] for a in again["architectures"]] == ["kept", "kept", "ResNetModel"]  # what has a problem is tried again
    assert len(out.read_text().splitlines()) == 3


@installed
def test_layers_alike_are_traced_once_and_counted_often():
    from fastkernels_env.coverage.hooks import observed
    from fastkernels_env.coverage.models import build
    from fastkernels_env.coverage.tracing import Tracer
    from fastkernels_env.coverage.workloads import run_steps

    tracer, steps = Tracer(), []
    with observed(tracer), tracer:
        model = build("llama")
        assert run_steps(model, tracer, steps) == ""
    prefill = steps[0].calls
    assert {c.weight for c in prefill if c.op == "attention"} == {model.config.num_hidden_layers}
    assert sum(c.op == "attention" for c in prefill) < model.config.num_hidden_layers
    products = sum(c.flops * c.weight for c in prefill if c.op == "mm")
    layers = sum(p.numel() for n, p in model.named_parameters() if "layers" in n and p.dim() == 2)
    head = model.lm_head.weight.numel()
    assert products == 2 * (8 * 512 * layers + 8 * head)


@installed
def test_an_architecture_that_takes_too_long_is_a_failure():
    from fastkernels_env.coverage.architectures import Architecture
    from fastkernels_env.coverage.walk import walk

    [measured] = walk([Architecture(name="llama", model_type="llama")], limit_s=0.01)
    assert measured.problem == "it took longer than 0 s"
    assert measured.seconds == {}
