"""The command line as a person or a script meets it: real processes, their output, their exit status."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastkernels_env import read_log
from fastkernels_env.checks import CHECKS
from fastkernels_env.device import cuda_present
from fastkernels_env.types import Outcome

COMMAND = [sys.executable, "-m", "fastkernels_env"]
SECONDS = 120
RIGHT = "def tiny_scale(out, input, weight, factor):\n    out.copy_(input * weight * factor)\n"
WRONG = "def tiny_scale(out, input, weight, factor):\n    out.copy_(input)\n"
HANGING = "import time\n\n\ndef tiny_scale(out, input, weight, factor):\n    time.sleep(600)\n"
NO_ENTRY = "def another(out):\n    pass\n"
FIVE_MB = "x" * (5 << 20)


@pytest.fixture
def environment(tiny_root, tmp_path):
    """Finds the quick task; temporary files end up in a folder of the test."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    return {**os.environ, "FASTKERNELS_ENV_PATH": str(tiny_root), "TMPDIR": str(folder), "COLUMNS": "100"}


@pytest.fixture
def cli(environment):
    """Run a command line to its end."""

    def run(*arguments, stdin=b"", **options):
        options.setdefault("env", environment)
        if isinstance(stdin, bytes):
            options["input"] = stdin
        else:
            options["stdin"] = stdin
        done = subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, timeout=SECONDS, **options)
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    return run


def is_one_sentence(text):
    return text.startswith("fastkernels-env: ") and text.endswith("\n") and text.count("\n") == 1 and "Traceback" not in text


# -- what needs no judge ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], [], ["evaluate", "--help"]])
def test_help(cli, arguments):
    status, out, err = cli(*arguments)
    assert (status, err) == (0, "")
    assert "evaluate" in out


def test_version(cli):
    from importlib.metadata import version

    assert cli("--version") == (0, f"fastkernels-env {version('fastkernels-env')}\n", "")


def bad_arguments(folder):
    """Arguments that cannot be used, and words that the answer must hold."""
    good, binary, preset = folder / "good.py", folder / "binary", folder / "preset.toml"
    good.write_text(RIGHT)
    binary.write_bytes(b"\x7fELF\xff\xfe")
    preset.write_text("summary = 'no parts'\n")
    judge = ["evaluate", "tiny_scale", good]
    return {
        "unknown command": (["evalute"], ["evalute"]),
        "no task": (["evaluate"], ["TASK"]),
        "no file": (["evaluate", "tiny_scale"], ["FILE"]),
        "unknown option": ([*judge, "--fast"], ["--fast"]),
        "unknown task": (["evaluate", "tiny_scal", good], ["'tiny_scal'", "did you mean tiny_scale?"]),
        "task that resembles none": (["show", "zzz"], ["'zzz'", "known are", "rms_norm"]),
        "task to warm": (["warm", "rms_norn"], ["'rms_norn'", "rms_norm"]),
        "missing file": (["evaluate", "tiny_scale", folder / "absent.py"], ["absent.py", "No such file", "standard input"]),
        "folder": (["evaluate", "tiny_scale", folder], [str(folder), "is a folder"]),
        "not text": (["evaluate", "tiny_scale", binary], ["binary is not UTF-8 text", "byte 4"]),
        "endless": (["evaluate", "tiny_scale", "/dev/zero"], ["/dev/zero", "64 MiB"]),
        "file name with NUL": (["evaluate", "tiny_scale", "a\udcff"], ["cannot be read"]),
        "device": ([*judge, "--device", "tpu"], ["'tpu'", "cpu", "cuda"]),
        "effort": ([*judge, "--effort", "lazy"], ["'lazy'", "quick", "full"]),
        "seed": ([*judge, "--seed", "one"], ["one", "--seed"]),
        "unknown reward": ([*judge, "--reward", "richest"], ["'richest'", "production"]),
        "missing preset": ([*judge, "--reward", folder / "absent.toml"], ["absent.toml", "cannot be read"]),
        "broken preset": ([*judge, "--reward", preset], ["preset.toml", "bounds"]),
        "log is a folder": ([*judge, "--log", folder], [str(folder), "another file"]),
        "log below a file": ([*judge, "--log", good / "log.jsonl"], ["log.jsonl", "another file"]),
    }


BAD = sorted(bad_arguments(Path(os.devnull).parent / "shm")) if False else [
    "unknown command", "no task", "no file", "unknown option", "unknown task", "task that resembles none", "task to warm",
    "missing file", "folder", "not text", "endless", "file name with NUL", "device", "effort", "seed", "unknown reward",
    "missing preset", "broken preset", "log is a folder", "log below a file",
]
