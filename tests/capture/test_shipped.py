"""The shipped rows come out of the capture. Capturing needs `transformers`; that every row has an origin does not."""

import json

import pytest

from fastkernels_env.capture import facts, shipped, situations
from fastkernels_env.capture.shipped import Compared, compare, entries, shipped_rows, write

ENTRIES = entries()


@pytest.mark.parametrize("task", ENTRIES)
def test_every_cuda_row_has_an_origin(task):
    assert {row.name for row in shipped_rows(task)} == set(ENTRIES[task])
    for entry in ENTRIES[task].values():
        assert entry.model in facts.shipped()
        assert len(situations.shipped()[entry.workload].batches()) == 1


@pytest.mark.parametrize("task", ["rms_norm", "gqa_decode", "moe_gemm", "moe_dispatch"])
def test_rows_are_what_the_capture_says_or_say_why_not(task):
    pytest.importorskip("transformers")
    for compared in compare([task]):
        assert compared.settled, f"{compared.row.name}: {compared.differences or 'kept without a difference'}"
        assert compared.captured.revision == facts.shipped()[compared.captured.model].revision


def test_a_row_that_is_not_what_the_capture_says_is_told(monkeypatch, capsys, tmp_path):
    pytest.importorskip("transformers")
    wrong = {name: shipped.Entry(model="Mixtral-8x7B", workload="decode-16") for name in ENTRIES["rms_norm"]}
    monkeypatch.setattr(shipped, "entries", lambda: {"rms_norm": wrong})
    assert shipped.main(["rms_norm", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "rms_norm decode-64: T 64, captured 16" in said
    assert "0 of 4 rows identical, 0 kept" in said


def test_a_task_without_an_entry_is_named(capsys):
    assert shipped.main(["rms_nrom"]) == 2
    assert "shipped.toml has no task 'rms_nrom'" in capsys.readouterr().err


def test_writing_changes_the_rows_meant_and_no_other_line(tmp_path, monkeypatch):
    row, *_ = rows = shipped_rows("rms_norm")
    folder = tmp_path / "rms_norm"
    folder.mkdir()
    file = folder / "workloads.jsonl"
    before = (shipped.task_folders()["rms_norm"] / "workloads.jsonl").read_text().splitlines()
    file.write_text("\n".join(before) + "\n")
    monkeypatch.setattr(shipped, "task_folders", lambda: {"rms_norm": folder})
    import msgspec

    captured = msgspec.structs.replace(row, count=7, model="mine", revision="today", workload="chat")
    write([Compared(task="rms_norm", row=row, captured=captured, differences=("count",), kept="")], None)
    after = file.read_text().splitlines()
    [changed] = [number for number, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    assert json.loads(after[changed]) == json.loads(before[changed]) | {
        "count": 7, "model": "mine", "revision": "today", "workload": "chat", "params": {}
    }
    file.write_text("\n".join(before) + "\n")
    kept = Compared(task="rms_norm", row=rows[1], captured=captured, differences=("count",), kept="a reason")
    write([kept], None)
    assert shipped_rows("rms_norm")[1].count == rows[1].count
    assert shipped_rows("rms_norm")[1].model == "mine"
