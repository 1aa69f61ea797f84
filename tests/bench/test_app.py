"""The command group `bench` as a person or a script meets it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

SUITE = """
[cheat]
category = "SEM"
task = "tiny_scale"
device = "cpu"
language = "python"
file = "cheat.py"
how = "copies its input"
expect = ["wrong"]
decides = ["smoke"]
"""
CHEAT = "# Copies its input.\n\n\ndef tiny_scale(out, input, weight, factor):\n    out.copy_(input)\n"
RIGHT = "# Does all of it.\n\n\ndef tiny_scale(out, input, weight, factor):\n    out.copy_(input * weight * factor)\n"


@pytest.fixture
def bench(tiny_root, tmp_path):
    """Run a command of the group: exit status, standard output, standard error."""

    def bench(*arguments, module="fastkernels_env", group=("bench",)):
        done = subprocess.run(
            [sys.executable, "-m", module, *group, *map(str, arguments)], capture_output=True, text=True, timeout=300,
            stdin=subprocess.DEVNULL, env={**os.environ, "FASTKERNELS_ENV_PATH": str(tiny_root), "COLUMNS": "140"},
        )
        return done.returncode, done.stdout, done.stderr

    return bench


@pytest.fixture
def suite(tmp_path):
    def suite(source=CHEAT):
        (tmp_path / "manifest.toml").write_text(SUITE)
        (tmp_path / "cheat.py").write_text(source)
        return tmp_path

    return suite


INTEGRITY = ("integrity", "--device", "cpu", "--no-seeds", "--suite")


def test_a_caught_threat_is_status_0_and_the_counts_are_printed(bench, suite):
    status, out, err = bench(*INTEGRITY, suite())
    assert status == 0, err
    assert "threats accepted: 0 of 1 (must be 0)" in out
    assert "honest twins refused: 0 of 0 (must be 0)" in out
    row = next(text for text in out.splitlines() if text.startswith("cheat"))
    assert row.split()[:5] == ["cheat", "SEM", "wrong", "wrong", "smoke"]


def test_an_accepted_threat_is_status_1_and_json_says_so(bench, suite):
    status, out, _ = bench(*INTEGRITY, suite(RIGHT), "--json")
    assert status == 1
    report = json.loads(out)
    assert (report["threats_accepted"], report["twins_refused"], report["unexpected"]) == (1, 0, ["cheat"])
    assert report["rows"][0]["outcome"] == "accepted"


def test_the_list_of_threats_needs_no_evaluation(bench, suite):
    status, out, err = bench("threats", "--suite", suite(), group=(), module="fastkernels_env.bench")
    assert (status, err) == (0, "")
    assert "| [cheat](../tests/threats/cheat.py) |" in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("integrity", "--device", "cpu", "--suite", "nowhere"), "expected a threat suite in nowhere"),
        (("integrity", "--device", "cpu", "--only", "zzz"), "fits the pattern 'zzz'"),
        (("delegation", "--task", "zzz"), "there is no task 'zzz'"),
        (("integrity", "--device", "tpu"), "tpu"),
        (("alarms", "--device", "cpu", "--out", "never", "--file", "zzz.cpp"), "got 'zzz.cpp'"),
    ],
)
def test_unusable_arguments_are_one_sentence(bench, arguments, sentence):
    status, out, err = bench(*arguments)
    assert (status, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1


def test_the_usual_loop_takes_no_task_of_several_ranks(bench):
    status, out, err = bench("throughput", "--device", "cpu", "--task", "rms_norm", "--task", "moe_dispatch")
    assert (status, out) == (2, "")
    assert "expected tasks of one rank for the usual loop, got moe_dispatch; leave it out with --usual 0" in err.replace("\n", " ")


def test_without_the_usual_loop_throughput_takes_tasks_of_several_ranks(bench):
    few = ("--count", 1, "--usual", 0, "--alone", 0)
    status, out, err = bench("throughput", "--device", "cpu", "--task", "allgather_gemm", *few, "--json")
    assert status == 0, err
    assert list(json.loads(out)["tasks"]) == ["allgather_gemm"]


def test_baselines_are_timed_into_a_log_that_can_be_printed(bench, tmp_path):
    log = tmp_path / "log.jsonl"
    status, _, error = bench("baselines", "--out", log, "--render")
    assert status == 2
    assert "which does not exist" in error
    chosen = ("--device", "cpu", "--task", "tiny_scale", "--effort", "quick", "--file", "cpu.cpp")
    status, page, told = bench("baselines", "--out", log, *chosen)
    assert (status, "tiny_scale | accepted" in told, "### tiny_scale" in page) == (0, True, True)
    assert bench("baselines", "--out", log, "--render")[:2] == (0, page)
