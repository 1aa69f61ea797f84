"""Records scored again, in memory and from the command line."""

import csv
import json
import lzma
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from fastkernels_env import read_log
from fastkernels_env.analysis import rescore
from fastkernels_env.analysis.rescored_files import rescored_line
from fastkernels_env.cli import run
from fastkernels_env.log import decode_record, encode_record
from fastkernels_env.reward import load_preset
from fastkernels_env.types import Reward

records = runpy.run_path(str(Path(__file__).parent / "records.py"))
record, realistic, preset, write, BLIND = (records[name] for name in ("record", "realistic", "preset", "write", "BLIND"))
REPLIES = [record("a", speedup=2.0), record("b", "silent_error", 4.0), record("c", "wrong"), record("d", "fault"), record("e", "wrong")]


@pytest.fixture
def log(tmp_path):
    return write(tmp_path / "log.jsonl", REPLIES)


@pytest.fixture
def cli(capsys, monkeypatch):
    """Run a command line in this process: exit status, standard output, standard error."""
    monkeypatch.setattr("signal.signal", lambda *_: None)

    def call(*arguments):
        status = run([str(argument) for argument in arguments])
        return (status, *capsys.readouterr())

    return call


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# -- in memory -----------------------------------------------------------------------------------------------------------------


def test_records_get_the_reward_of_the_preset_and_keep_the_others():
    old = Reward(preset="mine", total=7.0)
    before = [realistic(rewards={"mine": old}), record("f", "fault")]
    production = load_preset("production")
    first, fault = rescore(before, production)
    assert first.rewards == {"mine": old, "production": production.score(before[0])}
    assert replace(first, rewards={"mine": old}) == before[0]
    assert fault.rewards["production"].total is None


def test_records_are_scored_as_they_are_asked_for():
    def endless():
        while True:
            yield realistic()

    assert next(rescore(endless(), load_preset("production"))).rewards["production"].total > 1


@given(records["evaluations"](), st.sampled_from(["production", "kevin"]))
def test_a_line_is_rescored_as_its_record_is(evaluation, name):
    (expected,) = rescore([evaluation], load_preset(name))
    line = rescored_line(encode_record(evaluation), expected.rewards[name])
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode_record(line) == decode_record(encode_record(expected))


def test_a_line_keeps_what_this_version_does_not_know():
    line = encode_record(realistic()).replace(b'{"schema_version"', b'{"added_later":[1,"nan"],"schema_version"')
    assert json.loads(rescored_line(line, Reward(preset="x", total=1.0)))["added_later"] == [1, "nan"]


# -- from the command line -----------------------------------------------------------------------------------------------------


def test_the_table(cli, log):
    status, out, err = cli("rescore", log)
    lines = [line.split() for line in out.splitlines()]
    assert (status, err) == (0, "")
    assert lines[0] == ["outcome", "count", "mean", "min", "max"]
    assert [line[:2] for line in lines[1:5]] == [["wrong", "2"], ["silent_error", "1"], ["accepted", "1"], ["fault", "1"]]
    assert lines[4][2:] == ["-", "-", "-"]
    assert lines[5][:4] == ["all", "but", "faults", "4"]


def test_json(cli, log, tmp_path):
    preset(tmp_path, "blind", BLIND)
    status, out, _ = cli("rescore", log, "--reward", tmp_path / "blind.toml", "--json")
    found = json.loads(out)
    assert status == 0
    assert (found["preset"], found["count"], found["faults"], found["rewards"]["mean"]) == ("blind", 5, 1, 0.5)
    assert {one["outcome"]: one["rewards"]["mean"] for one in found["outcomes"]} == {
        "wrong": 0, "silent_error": 1, "accepted": 1, "fault": None,
    }


@pytest.mark.parametrize("name", ["new.jsonl", "new.jsonl.gz", "new.jsonl.xz", "new.jsonl.bz2"])
def test_a_log_with_the_new_reward(cli, log, tmp_path, name):
    status, _, err = cli("rescore", log, "--out", tmp_path / name)
    assert status == 0
    assert err == f"fastkernels-env: wrote {tmp_path / name}: 5 records\n"
    assert read_log(tmp_path / name) == list(rescore(REPLIES, load_preset("production")))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", name]


def test_csv(cli, log, tmp_path):
    production = load_preset("production")
    assert cli("rescore", log, "--out", tmp_path / "new.csv")[0] == 0
    found = rows(tmp_path / "new.csv")
    assert [row["id"] for row in found] == list("abcde")
    assert list(found[0])[:10] == ["id", "task", "run", "group", "episode", "turn", "policy_step", "outcome", "total", "turn_reward"]
    reward = production.score(REPLIES[0])
    assert float(found[0]["total"]) == float(found[0]["turn_reward"]) == reward.total
    assert {name: float(found[0][f"part/{name}"]) for name in production.part_names} == reward.parts
    assert {found[3][name] for name in ("total", "turn_reward", "part/outcome")} == {""}


def test_rewards_of_turns_follow_the_credit_of_the_preset(cli, tmp_path):
    # Two episodes, interleaved and out of order, with a fault between; gamma is 0.4 for kevin: a turn earns the later ones discounted.
    replies = [
        record("a1", "silent_error", 1.0, episode="a", turn=1), record("b0", "wrong", episode="b", turn=0),
        record("a0", "wrong", episode="a", turn=0), record("b0f", "fault", episode="b", turn=0), record("alone", "wrong"),
    ]
    checked = [records["check"]("smoke", "smoke", "passed")]
    log = write(tmp_path / "log.jsonl", [replace(replies[0], checks=checked), *replies[1:]])
    cli("rescore", log, "--reward", "kevin", "--out", tmp_path / "kevin.csv")
    found = {row["id"]: row for row in rows(tmp_path / "kevin.csv")}
    last = float(found["a1"]["total"])
    assert last > 0
    assert float(found["a1"]["turn_reward"]) == last
    assert float(found["a0"]["turn_reward"]) == pytest.approx(0.4 * last)
    assert [float(found[name]["turn_reward"]) for name in ("b0", "alone")] == [0, 0]
    assert found["b0f"]["turn_reward"] == ""


def test_what_was_there_is_replaced_whole_or_not_at_all(cli, log, tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_text("old")
    broken = tmp_path / "broken.jsonl"
    broken.write_bytes(log.read_bytes() + b'{"schema_version":99}\n')
    status, _, err = cli("rescore", broken, "--out", out)
    assert status == 2
    assert "schema version 99" in err
    assert out.read_text() == "old"
    assert cli("rescore", log, "--out", out)[0] == 0
    assert len(read_log(out)) == 5


@pytest.mark.parametrize("make", [lambda log, out: out.symlink_to(log), lambda log, out: os.link(log, out), lambda log, out: None])
def test_the_log_itself_is_never_written_over(cli, log, tmp_path, make):
    out = tmp_path / "same.jsonl"
    make(log, out)
    before = log.read_bytes()
    status, _, err = cli("rescore", log, "--out", out if out.exists() else tmp_path / "." / log.name)
    assert status == 2
    assert "is the log that is read; name another file with --out" in err
    assert log.read_bytes() == before


def test_a_torn_line_is_skipped_and_said(cli, log):
    log.write_bytes(log.read_bytes() + b'{"schema_version":1,"id":"to')
    status, out, err = cli("rescore", log)
    assert status == 0
    assert "skipped 1 torn or invalid line\n" in err
    assert "silent_error" in out


def test_a_compressed_log(cli, log, tmp_path):
    packed = tmp_path / "log.jsonl.xz"
    packed.write_bytes(lzma.compress(log.read_bytes()))
    assert cli("rescore", packed) == cli("rescore", log)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["absent.jsonl"], "absent.jsonl: the log cannot be read: No such file"),
        (["."], "the log cannot be read"),
        (["LOG", "--reward", "produktion"], "unknown preset 'produktion'; known are: "),
        (["LOG", "--out", "absent/folder/x.jsonl"], "absent/folder/x.jsonl cannot be written (No such file or directory)"),
        (["EMPTY"], "holds no record"),
        (["EMPTY", "--out", "OUT"], "holds no record"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(cli, log, tmp_path, arguments, says):
    (tmp_path / "empty.jsonl").touch()
    names = {"LOG": log, "EMPTY": tmp_path / "empty.jsonl", "OUT": tmp_path / "out.jsonl"}
    status, out, err = cli("rescore", *(names.get(word, word) for word in arguments))
    assert (status, out) == (2, "")
    assert says in err
    assert (err.count("\n"), err.startswith("fastkernels-env: ")) == (1, True)
    assert not (tmp_path / "out.jsonl").exists()


def test_only_faults(cli, tmp_path):
    status, out, _ = cli("rescore", write(tmp_path / "log.jsonl", [record("a", "fault")]))
    assert status == 0
    assert out.splitlines()[-1].split() == ["all", "but", "faults", "0", "-", "-", "-"]


@pytest.mark.parametrize(
    "command", [["rescore", "LOG"], ["rescore", "LOG", "--out", "OUT"], ["ablate", "LOG", "--rewards", "production", "--out", "OUT"]]
)
def test_torch_is_not_imported(log, tmp_path, command):
    names = {"LOG": str(log), "OUT": str(tmp_path / "out")}
    program = "import sys; from fastkernels_env.cli import run; status = run(sys.argv[1:]); sys.exit(status or 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program, *(names.get(word, word) for word in command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
