"""The page and the tables of an ablation, from the command line to the browser."""

import csv
import importlib.util
import runpy
from pathlib import Path

import pytest
from msgspec.structs import replace

from fastkernels_env.analysis import tables
from fastkernels_env.cli import run
from fastkernels_env.types import Outcome

records = runpy.run_path(str(Path(__file__).parent / "records.py"))
browser = runpy.run_path(str(Path(__file__).parent.parent / "browser.py"))
record, write, run_of, timed, bare = (records[name] for name in ("record", "write", "run_of", "timed", "bare"))

pytest.importorskip("matplotlib")
FILES = {f"{name}.csv" for name in ("presets", "outcomes", "correlations", "groups", "curves", "records")} | {"index.html"}
HEADINGS = [
    "Rewards", "Would it pay for what production refuses?", "Reward by outcome", "Rank correlation", "Groups", "Learning curves", "Files",
]


@pytest.fixture
def cli(capsys, monkeypatch):
    """Run a command line in this process: exit status, standard output, standard error."""
    monkeypatch.setattr("signal.signal", lambda *_: None)

    def call(*arguments):
        status = run([str(argument) for argument in arguments])
        return (status, *capsys.readouterr())

    return call


@pytest.fixture
def log(tmp_path):
    return write(tmp_path / "log.jsonl", [*run_of("first"), *run_of("second")])


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_page_and_tables(cli, log, tmp_path):
    out = tmp_path / "new" / "folder"
    status, printed, err = cli("ablate", log, "--rewards", "production,kevin,correct_only", "--out", out)
    assert status == 0
    assert printed.splitlines()[-1] == str(out / "index.html")
    assert {path.name for path in out.iterdir()} - {"records.parquet"} == FILES
    assert "left out, since they have no reward: 2 faults of the judge\n" in err
    assert [row["preset"] for row in rows(out / "presets.csv")] == ["production", "kevin", "correct_only"]
    assert [(row["first"], row["second"]) for row in rows(out / "correlations.csv")] == [
        ("production", "kevin"), ("production", "correct_only"), ("kevin", "correct_only"),
    ]
    assert len(rows(out / "records.csv")) == 30
    assert len(rows(out / "groups.csv")) == 3 * 6
    assert len(rows(out / "curves.csv")) == 3 * 6
    (silent,) = (row for row in rows(out / "outcomes.csv") if (row["preset"], row["grade"]) == ("production", "silent_error"))
    assert (silent["at_least_parity"], silent["above_parity"], silent["above_loud"]) == ("0", "0", "0")


def test_several_logs_are_one(cli, tmp_path):
    logs = [write(tmp_path / f"{name}.jsonl", run_of(name)) for name in "ab"]
    cli("ablate", *logs, "--rewards", "production", "--out", tmp_path / "out")
    assert len(rows(tmp_path / "out" / "records.csv")) == 30
    assert "30 records of a.jsonl, b.jsonl" in (tmp_path / "out" / "index.html").read_text()


def test_what_is_not_finite_is_an_empty_cell(cli, tmp_path):
    log = write(tmp_path / "log.jsonl", [record("a", speedup=timed(float("nan"), 1.0, float("inf"))), record("\ud800", "fault")])
    cli("ablate", log, "--rewards", "production", "--out", tmp_path / "out")
    first, fault = rows(tmp_path / "out" / "records.csv")
    assert (first["speedup_low"], first["speedup"], first["speedup_high"]) == ("", "1.0", "")
    assert (fault["outcome"], fault["grade"], fault["reward/production"]) == ("fault", "", "")


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="pyarrow is not installed")
def test_parquet_holds_what_the_csv_holds(cli, log, tmp_path):
    from pyarrow import parquet

    cli("ablate", log, "--rewards", "production", "--out", tmp_path / "out")
    table = parquet.read_table(tmp_path / "out" / "records.parquet").to_pylist()
    text = [{name: "" if value is None else str(value) for name, value in row.items()} for row in table]
    assert text == rows(tmp_path / "out" / "records.csv")


def test_without_pyarrow_the_rest_is_written_and_it_is_said(cli, log, tmp_path, monkeypatch):
    monkeypatch.setattr(tables.importlib.util, "find_spec", lambda name: None)
    status, _, err = cli("ablate", log, "--rewards", "production", "--out", tmp_path / "out")
    assert status == 0
    assert "records.parquet was left out, pyarrow is not installed; install it: pip install" in err
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["LOG", "--rewards", "production,produktion", "--out", "OUT"], "unknown preset 'produktion'; known are: "),
        (["LOG", "--rewards", "production,production", "--out", "OUT"], "each of another name, got production, production"),
        (["LOG", "--rewards", " , ", "--out", "OUT"], "one preset or more, each of another name, got none"),
        (["LOG", "ABSENT", "--rewards", "production", "--out", "OUT"], "absent.jsonl: the log cannot be read: No such file"),
        (["EMPTY", "--rewards", "production", "--out", "OUT"], "empty.jsonl: no record; name a log"),
        (["LOG", "--rewards", "production", "--out", "LOG"], "cannot be written to (File exists); name another one with --out"),
        (["LOG", "--rewards", "production", "--out", "/proc/absent"], "/proc/absent cannot be written to"),
        (["LOG", "--out", "OUT"], "--rewards"),
        (["LOG", "--rewards", "production"], "--out"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(cli, log, tmp_path, arguments, says):
    (tmp_path / "empty.jsonl").touch()
    names = {"LOG": log, "EMPTY": tmp_path / "empty.jsonl", "ABSENT": tmp_path / "absent.jsonl", "OUT": tmp_path / "out"}
    status, out, err = cli("ablate", *(names.get(word, word) for word in arguments))
    assert (status, out) == (2, "")
    assert says in err
    assert (err.count("\n"), err.startswith("fastkernels-env: ")) == (1, True)


# -- in a browser --------------------------------------------------------------------------------------------------------------

needs_browser = pytest.mark.skipif(browser["find"]() is None, reason="no chromium or google-chrome is installed")


@needs_browser
def test_the_page_in_a_browser(cli, log, tmp_path):
    presets = "production,gentle,kevin,drkernel,cuda_agent,kernrl,log_speedup,correct_only"
    cli("ablate", log, "--rewards", presets, "--out", tmp_path / "out")
    seen = browser["check"](tmp_path / "out" / "index.html", headings=HEADINGS, width=800)
    assert seen.title == "Reward presets compared"
    # Rewards by grade, two rank matrices, groups, a curve for each of eight presets, and two of outcomes.
    assert len(seen.pictures) == 4 + 8 + 2
    assert "2 of them are faults of the judge" in seen.text
    assert "none of them" in seen.text


@needs_browser
@pytest.mark.parametrize(
    "replies",
    [
        [record("a", "fault")],
        [record("a", "wrong")],
        [replace(bare(Outcome.WRONG, code="</svg><script>"), task="<b>task", id="<script>x</script>")] * 2,
        [reply for number in range(9) for reply in run_of(f"run {number} <i>", steps=2)],
    ],
    ids=["only_faults", "one_record", "markup", "many_runs"],
)
def test_odd_logs_in_a_browser(cli, tmp_path, replies):
    assert cli("ablate", write(tmp_path / "log.jsonl", replies), "--rewards", "production", "--out", tmp_path / "out")[0] == 0
    browser["check"](tmp_path / "out" / "index.html", headings=HEADINGS)
