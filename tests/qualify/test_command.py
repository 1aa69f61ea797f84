"""`fastkernels-env qualify` as a person or a script meets it."""

import json
import os
import subprocess
import sys

import pytest

MUTANT = '[[mutant]]\nname = "ignored_factor"\nseed = "cpu.cpp"\nfind = " * float(factor)"\nreplace = ""\n'


@pytest.fixture
def cli(tmp_path, task_files):
    """Run `qualify` on a copy of the quick task that has one mutant: exit status, standard output, standard error."""
    folder = task_files(tmp_path / "tasks" / "command_scale", task=task_files.texts["task"].replace('"factor": 1.5', '"factor": 1.0'))
    (folder / "mutants.toml").write_text(MUTANT)

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "fastkernels_env", "qualify", *map(str, arguments)], capture_output=True, text=True, timeout=180,
            env={**os.environ, "FASTKERNELS_ENV_PATH": str(tmp_path / "tasks")},
        )
        return done.returncode, done.stdout, done.stderr

    return run


def test_a_survivor_is_named_and_fails_the_command(cli, tmp_path):
    out = tmp_path / "results.jsonl"
    status, output, errors = cli("command_scale", "--device", "cpu", "--budget", 0, "--out", out)
    assert status == 1, errors
    assert "| command_scale | cpu.cpp | 0 / 1 |" in output
    assert "### Survivors" in output
    assert len(out.read_text().splitlines()) == 1
    status, output, errors = cli("command_scale", "--device", "cpu", "--budget", 0, "--out", out, "--json")
    assert status == 1, errors
    assert json.loads(output)["tasks"]["command_scale"]["hand"] == {"survived": 1}
    assert len(out.read_text().splitlines()) == 1


@pytest.mark.parametrize(("arguments", "message"), [
    (("no_such_task",), "there is no task 'no_such_task'"),
    (("command_scale", "--budget", "-1"), "greater than or equal to 0"),
    (("command_scale", "--device", "cpu", "--out", "/"), "it is a folder"),
])
def test_unusable_arguments(cli, arguments, message):
    status, output, errors = cli(*arguments)
    assert (status, output) == (2, "")
    assert message in errors
    assert len(errors.splitlines()) == 1


def test_results_of_something_else_are_refused(cli, tmp_path):
    out = tmp_path / "results.jsonl"
    out.write_text('{"a": 1}\n')
    status, output, errors = cli("command_scale", "--device", "cpu", "--out", out)
    assert (status, output) == (2, "")
    assert "line 1 is no result of a qualification" in errors
