"""The doctor tells what a machine lacks, and never falls ill itself."""

import importlib.util
import io
import json
import os
import subprocess
import sys

import pytest
from rich.console import Console

from fastkernels_env import doctor
from fastkernels_env.checks import CHECKS, required
from fastkernels_env.device import cuda_present
from fastkernels_env.sandbox.layers import LAYERS


@pytest.fixture(autouse=True)
def nothing_remembered():
    doctor._opened.cache_clear()
    yield
    doctor._opened.cache_clear()


def by_name(rows, device=None):
    return {row["name"]: row for row in rows if device is None or row["device"] == device}


def rendered(report):
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(doctor.render(report))
    return console.file.getvalue()


def test_report_is_plain_data_and_says_why():
    report = doctor.examine()
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    for section in ("devices", "tools", "languages", "baselines", "containment", "checks", "packages"):
        assert report[section], section
        assert all({"name", "status", "detail"} <= set(row) for row in report[section]), section
    unable = [row for row in report["languages"] if row["status"] != "yes"]
    assert all(row["detail"] for row in unable)


def test_checks_that_run_are_those_that_acceptance_requires():
    checks = [row for row in doctor.examine()["checks"] if row["device"] == "cpu"]
    assert [row["name"] for row in checks] == [spec.name for spec in CHECKS]
    assert tuple(row["name"] for row in checks if row["status"] == "runs") == required("cpu")
    assert all(row["detail"] for row in checks)


def test_containment_is_what_records_say(evaluator, tiny, task_files):
    rows = doctor.examine()["containment"]
    assert [row["name"] for row in rows] == list(LAYERS)
    assert all(row["detail"] for row in rows if row["status"] == "missing")
    evaluation = evaluator.evaluate("tiny_scale", f"```cpp{task_files.texts['cpu']}```")
    assert [row["name"] for row in rows if row["status"] == "active"] == evaluation.containment
    assert [row["name"] for row in rows if row["status"] == "missing"] == evaluation.missing_containment


def test_without_compilers_and_drivers(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    report = doctor.examine()
    tools = by_name(report["tools"])
    assert {tools[name]["status"] for name in ("C++ compiler", "nvcc", "CUDA driver")} == {"missing"}
    languages = by_name(report["languages"], "cpu")
    assert languages["C++"]["status"] == languages["CUDA C++"]["status"] == "no"
    assert "c++" in languages["C++"]["detail"]
    assert languages["Python"]["status"] == "yes"
    assert "there is no 'c++' on PATH" in " ".join(rendered(report).split())


def test_compiler_that_fails_is_no_compiler(monkeypatch, tmp_path):
    fake = tmp_path / "c++"
    fake.write_text("#!/bin/sh\necho 'fatal error: omp.h: No such file' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    report = doctor.examine()
    assert by_name(report["tools"])["C++ compiler"] == {
        "name": "C++ compiler", "status": "broken", "detail": "RuntimeError: fatal error: omp.h: No such file",
    }
    assert by_name(report["languages"], "cpu")["C++"]["status"] == "no"


def test_without_triton(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "triton" else real(name, *rest))
    report = doctor.examine()
    assert by_name(report["tools"])["triton"]["status"] == "missing"
    row = by_name(report["languages"], "cpu")["Triton"]
    assert (row["status"], "triton" in row["detail"]) == ("no", True)


@pytest.mark.skipif(cuda_present(), reason="this host has a GPU")
def test_without_a_gpu_its_languages_are_refused_with_the_reason():
    report = doctor.examine()
    assert [row["device"] for row in report["devices"]] == ["cpu"]
    cuda = by_name(report["languages"], "cuda")
    assert set(cuda) == {"Triton", "CUDA C++", "Python"}
    assert {row["status"] for row in cuda.values()} == {"no"}
    assert all("nvidia-smi" in row["detail"] for row in cuda.values())


def test_without_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    row = by_name(doctor.examine()["packages"])["ray"]
    assert row["status"] == "not installed"
    assert "works without it" in row["detail"]


def test_broken_task_folder_is_one_row(monkeypatch, tmp_path, task_files):
    task_files(tmp_path / "ill", task="raise RuntimeError('ill')")
    monkeypatch.setenv("FASTKERNELS_ENV_PATH", str(tmp_path))
    rows = [row for row in doctor.examine()["baselines"] if row["task"] == "ill"]
    assert [row["status"] for row in rows] == ["broken"]
    assert "'ill'" in rows[0]["detail"]


def test_section_that_cannot_be_examined_says_so(monkeypatch):
    def refuse(kind):
        raise OSError("no such device today")

    monkeypatch.setattr(doctor, "_opened", refuse, raising=True)
    monkeypatch.setattr(refuse, "cache_clear", lambda: None, raising=False)
    report = doctor.examine()
    assert [(row["status"], row["detail"]) for row in report["devices"]] == [("broken", "OSError: no such device today")]
    assert "no such device today" in rendered(report)


def test_warmed_baselines_are_shown_as_such(tiny, evaluator):
    from fastkernels_env.warm import warm

    warm(evaluator.open(), [tiny])
    report = doctor.examine()
    assert "tiny_scale" in by_name(report["devices"], "cpu").popitem()[1]["warmed"]
    row = next(row for row in report["baselines"] if row["task"] == "tiny_scale")
    assert (row["name"], row["status"]) == ("eager", "used")


@pytest.mark.parametrize("as_json", [True, False])
def test_command_line_without_anything_on_the_path(tmp_path, as_json):
    environment = {**os.environ, "PATH": str(tmp_path), "CUDA_HOME": str(tmp_path), "COLUMNS": "100"}
    command = [sys.executable, "-m", "fastkernels_env", "doctor", *(["--json"] if as_json else [])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    assert (done.returncode, done.stderr) == (0, "")  # calls into torch can still be timed
    if as_json:
        assert json.loads(done.stdout)["can_time"] is True
    else:
        assert "This machine can judge and time kernels." in done.stdout
        assert max(map(len, done.stdout.splitlines())) <= 100
