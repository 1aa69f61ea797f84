"""Facts of models: by name, from a file, divided between ranks."""

import json

import pytest

from fastkernels_env.capture import facts
from fastkernels_env.capture.facts import FactsError


@pytest.mark.parametrize("name", facts.shipped())
def test_every_shipped_model_says_where_its_facts_are_from(name):
    known = facts.load(name)
    assert known.name == name
    assert "config.json" in known.revision
    assert known.kind


def test_a_configuration_file_is_read(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 64, "transformers_version": "5.17.0"}))
    for path in (folder, folder / "config.json"):
        known = facts.load(str(path))
        assert known.kind == "llama"
        assert known.config == {"hidden_size": 64}
        assert known.revision.startswith("config.json with SHA-256 ")
        assert known.revision.endswith("transformers 5.17.0")
    assert facts.load(str(folder)).name == "mine"


def test_ranks_divide_heads_and_widths():
    known = facts.load("Llama-3.1-8B").sharded(2).config
    assert (known["num_attention_heads"], known["num_key_value_heads"], known["intermediate_size"]) == (16, 4, 7168)
    assert (known["hidden_size"], known["head_dim"]) == (4096, 128)
    assert facts.load("Llama-3.1-8B").sharded(16).config["num_key_value_heads"] == 1
    with pytest.raises(FactsError, match="num_attention_heads = 32 does not divide by 3 ranks"):
        facts.load("Llama-3.1-8B").sharded(3)


@pytest.mark.parametrize(("name", "text", "message"), [
    ("Llama-4", None, "there is no model 'Llama-4'; known are Llama-3.1-8B, "),
    ("none.json", None, "cannot be read as a model's configuration"),
    ("bad.json", "{", "cannot be read as a model's configuration"),
    ("typeless.json", "{}", "has no model_type"),
])
def test_what_is_no_model_is_named(tmp_path, monkeypatch, name, text, message):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(FactsError, match=message):
        facts.load(name)
