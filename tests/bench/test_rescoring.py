"""The measurement of rescoring."""

import json
import runpy
from pathlib import Path

from fastkernels_env.cli import run

records = runpy.run_path(str(Path(__file__).parent.parent / "analysis" / "records.py"))


def test_as_many_records_as_were_asked_for_are_scored(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    log = records["write"](tmp_path / "log.jsonl", [records["record"]("a"), records["record"]("b", "wrong")])
    assert run(["bench", "rescore", str(log), "--records", "5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["records"] == 5
    assert all(value > 0 for value in found.values())


def test_an_empty_log(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    (tmp_path / "log.jsonl").touch()
    assert run(["bench", "rescore", str(tmp_path / "log.jsonl")]) == 2
    assert "holds no record" in capsys.readouterr().err
