"""The demonstration shows every kind of submission, and each one gets what it deserves."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import fastkernels_env
from fastkernels_env import demo
from fastkernels_env.device import cuda_present
from fastkernels_env.registry import load_task
from fastkernels_env.submission import extract
from fastkernels_env.types import BaselineReport, DeviceInfo, Evaluation, Outcome

FOLDER = Path(fastkernels_env.__file__).parent / "demo_kernels"
OWN = sorted(path for path in FOLDER.iterdir() if path.is_file())


def test_every_source_is_shown():
    files = {exhibit.file for exhibit in (*demo.CPU_EXHIBITS, *demo.CUDA_EXHIBITS)}
    assert {path.name for path in OWN} == {file for file in files if not file.startswith("seeds/")}


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_first_line_says_what_a_source_shows(path):
    mark = {".cpp": "// ", ".cu": "// ", ".py": "# ", ".md": "<!-- "}[path.suffix]
    first = path.read_text().partition("\n")[0]
    assert first.startswith(mark)
    assert first.endswith((".", ". -->"))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_all_eight_kinds_are_there_in_a_language_of_the_device(device):
    exhibits = demo.CPU_EXHIBITS if device == "cpu" else demo.CUDA_EXHIBITS
    expected = [exhibit.expected for exhibit in exhibits]
    assert set(expected) == {
        Outcome.ACCEPTED, Outcome.WRONG, Outcome.SILENT_ERROR, Outcome.BUILD_FAILED, Outcome.CRASHED, Outcome.TIMED_OUT, Outcome.TAMPERED,
    }
    assert expected.count(Outcome.ACCEPTED) >= 2
    task = load_task(demo.TASK)
    languages = {extract(exhibit.read(), task, device).language.value for exhibit in exhibits}
    assert languages == ({"cpp"} if device == "cpu" else {"python", "cuda"})


def test_cuda_sources_are_left_out_where_nothing_compiles_them(monkeypatch):
    monkeypatch.setattr(demo, "has_nvcc", lambda: False)
    shown = demo.exhibits("cuda")
    assert len(shown) == 8
    assert not any(exhibit.file.endswith(".cu") for exhibit in shown)


@pytest.mark.sampled("name", take=2)
@pytest.mark.parametrize("name", ["slow", "wrong", "silent", "cheat"])
def test_triton_sources_through_the_interpreter(name, tmp_path):
    """Small sizes in a process of its own: the interpreter is chosen when Triton is imported."""
    program = f"""
import importlib.util, os, sys
os.environ["TRITON_INTERPRET"] = "1"
import msgspec, torch
from fastkernels_env.judge.cases import make_case
from fastkernels_env.registry import load_task
from fastkernels_env.types import Regime

spec = importlib.util.spec_from_file_location("kernel", {str(FOLDER / f"{name}.py")!r})
kernel = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kernel)
task = load_task("moe_gemm")
base = task.smoke_workload("cpu")


def error(tokens, regime, seed):
    workload = msgspec.structs.replace(base, sizes={{**base.sizes, "T": tokens, "N": 80, "K": 96}})
    case = make_case(task, workload, regime, seed, "cpu")
    out = torch.full(case.expected["C"].shape, float("nan"))
    kernel.moe_gemm(*[out if arg.name == "C" else case.args[arg.name] for arg in task.signature])
    expected = case.expected["C"]
    return float((out.double() - expected).norm() / expected.norm())


even, ragged = error(64, Regime.NORMAL, 1), error(9, Regime.REALISTIC, 2)
print(even, ragged)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=180, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    even, ragged = map(float, done.stdout.split())
    assert (even < 1e-5) is (name != "wrong")
    assert (ragged < 1e-5) is (name in ("slow", "cheat"))


class Judged:
    """An evaluator that gives every submission the same outcome."""

    device = "cpu"

    def __init__(self, outcome, **fields):
        self.outcome, self.fields = outcome, fields

    def evaluate(self, task, text, *, effort):
        device = DeviceInfo(kind="cpu", name="a CPU")
        return Evaluation(
            id="1", created="", task=task, task_version=1, device=device, effort=effort, seed=1, outcome=self.outcome, text=text,
            **{"reason": "because", **self.fields},
        )


def shown_by(evaluator):
    console = Console(file=io.StringIO(), width=100, color_system=None)
    entries = demo.run_demo(evaluator, console)
    return entries, " ".join(console.file.getvalue().split())


def test_unexpected_outcomes_are_named():
    entries, text = shown_by(Judged(Outcome.ACCEPTED))
    assert [entry.as_expected for entry in entries] == [exhibit.expected is Outcome.ACCEPTED for exhibit in demo.CPU_EXHIBITS]
    assert "6 of 8 did not get the outcome that they must get" in text
    assert "cheats: accepted instead of tampered" in text


def test_reasons_cannot_steer_the_terminal_or_fill_it():
    _, text = shown_by(Judged(Outcome.WRONG, reason="\x1b[2J[red]" + "numbers " * 100))
    assert "\x1b" not in text
    assert "[red]" in text
    assert text.count("numbers") < 8 * 15


def test_baselines_are_told_with_the_reason_where_one_is_not_used():
    reports = [BaselineReport(name="eager", status="used"), BaselineReport(name="deep", status="not_available", detail="not installed")]
    _, text = shown_by(Judged(Outcome.FAULT, baselines=reports))
    assert "eager used; deep not available (not installed)" in text
    assert "fault is not its own" in text


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_demonstration(device):
    """All of it, as `make demo` runs it: exit status 0 means that each submission got its outcome."""
    if device == "cuda" and not cuda_present():
        pytest.skip("needs a GPU")
    command = [sys.executable, "-m", "fastkernels_env", "demo", "--device", device]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    lines, exhibits = done.stdout.splitlines(), demo.exhibits(device)
    assert max(map(len, lines)) <= 100
    for exhibit in exhibits:
        row = next(line for line in lines if line.startswith(f"{exhibit.name}  "))
        assert f"  {exhibit.expected.value.replace('_', ' ')}  " in row
    assert f"All {len(exhibits)} got the outcome that they must get." in done.stdout
    assert (" used" if device == "cuda" else "eager used") in done.stdout
