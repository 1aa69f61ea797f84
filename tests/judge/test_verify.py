"""Verification over real workers: one native library whose bug is chosen by an argument, so that one compilation tries them all."""

from __future__ import annotations

import textwrap

import pytest

from fastkernels_env.build import Build
from fastkernels_env.judge.cases import make_case
from fastkernels_env.judge.errors import WorkerDied, WorkerRaised, WorkerTimedOut
from fastkernels_env.judge.verify import case_layout, smoke_case, verify_case
from fastkernels_env.protocol import Load
from fastkernels_env.submission import extract
from fastkernels_env.types import Regime

BUGS = """
    #include <fastkernels.h>
    #include <chrono>
    #include <cstdlib>
    #include <stdexcept>
    #include <thread>

    enum Bug {
      NONE, DROPS_ROW, ADDS, LEAVES_ROW, WRITES_AFTER, WRITES_BEFORE, WRITES_GAP, WRITES_INPUT, WRITES_WEIGHT, WRITES_BEHIND_ROWS,
      OFF_BY_LITTLE, THROWS, ABORTS, SEGFAULTS, SLEEPS, EXITS
    };

    void tiny_scale(tvm::ffi::TensorView out, tvm::ffi::TensorView input, tvm::ffi::TensorView weight, double factor) {
      const int64_t rows = input.size(0), width = input.size(1), stride = input.stride(0);
      float *x = fk::data<float>(input), *w = fk::data<float>(weight), *y = fk::data<float>(out);
      const int bug = int(factor);
      if (bug == THROWS) throw std::runtime_error("thrown by the submission");
      if (bug == ABORTS) std::abort();
      if (bug == SEGFAULTS) *(volatile int*)nullptr = 1;
      if (bug == SLEEPS) std::this_thread::sleep_for(std::chrono::seconds(1000));
      if (bug == EXITS) std::exit(7);
      const bool finite = rows && y[0] == y[0];
      for (int64_t t = 0; t < rows - (bug == DROPS_ROW); ++t)
        for (int64_t h = 0; h < width; ++h) {
          const float value = x[t * stride + h] * w[h];
          if (bug == ADDS) y[t * width + h] += value;
          else if (bug == LEAVES_ROW && finite && t == 0) continue;
          else y[t * width + h] = value;
        }
      if (bug == WRITES_AFTER) y[rows * width] = 1;
      if (bug == WRITES_BEFORE) y[-1] = 1;
      if (bug == WRITES_GAP) x[width] = 1;
      if (bug == WRITES_INPUT) x[3] = 1;
      if (bug == WRITES_WEIGHT) w[rows] = 1;
      if (bug == WRITES_BEHIND_ROWS) x[rows * stride - stride + width] = 1;
      if (bug == OFF_BY_LITTLE) for (int64_t h = 0; h < width; ++h) y[h] *= 1.00005f;
    }
"""
NUMBERS = {name.strip(): number for number, name in enumerate(BUGS.partition("enum Bug {")[2].partition("}")[0].split(","))}


@pytest.fixture(scope="module")
def library(evaluator, tiny_root):
    """The built library and its load request."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTKERNELS_ENV_PATH", str(tiny_root))
        from fastkernels_env.registry import load_task

        task = load_task("tiny_scale")
    with Build(extract(f"```cpp\n{textwrap.dedent(BUGS)}\n```", task, "cpu")) as build:
        artifact = build.result()
        names = tuple(arg.name for arg in task.signature)
        roles = tuple(arg.role.value for arg in task.signature)
        yield Load(artifact.path, "cpp", artifact.entry, names, roles, False, False)


@pytest.fixture
def run(evaluator, library, tiny):
    """Runs one case with a bug on a fresh worker."""
    judge = evaluator.open()
    opened = []

    def run(bug="NONE", workload="whole", regime=Regime.REALISTIC, function=verify_case, seconds=20.0):
        shape = next(w for w in tiny.workloads("cpu") if w.name == workload)
        case = make_case(tiny, shape, regime, 5, "cpu")
        case.args["factor"] = float(NUMBERS[bug])
        case.expected["out"] /= 1.5
        session, arena = judge.host.spawn(), judge.device.allocate(case_layout(tiny, case).size)
        opened.extend((session, arena))
        session.load(library, 20.0)
        session.attach(arena)
        return function(session, arena, judge.device, tiny, case, seconds)

    yield run
    for thing in opened:
        thing.close()


@pytest.mark.parametrize("workload", ["whole", "strided"])
@pytest.mark.parametrize("regime", [Regime.NORMAL, Regime.REALISTIC, Regime.EMPTY])
def test_a_right_library_is_right(run, workload, regime):
    result = run("NONE", workload, regime)
    assert result.right
    assert (result.wrong, result.poison, result.canary, result.mutated) == ("", "", "", "")


def test_an_unwritten_row_is_wrong(run):
    result = run("DROPS_ROW")
    assert "out: 64 of 1024 elements are NaN or infinite" in result.wrong
    assert "whole (T=16, H=64; float32; realistic)" in result.wrong
    assert not result.right


def test_reading_the_output_is_wrong(run):
    assert not run("ADDS").right


def test_an_answer_that_depends_on_the_poison_is_found_out(run):
    result = run("LEAVES_ROW")
    assert "depends on what the output buffer held" in result.poison
    assert not result.right


@pytest.mark.parametrize(("bug", "where"), [("WRITES_AFTER", "0 bytes after 'out'"), ("WRITES_BEFORE", "3 bytes before 'out'")])
def test_writes_beside_a_buffer_are_named(run, bug, where):
    result = run(bug)
    assert where in result.canary, result.canary
    assert "bytes changed outside every buffer" in result.canary
    assert (result.wrong, result.mutated) == ("", "")


def test_writes_between_rows_are_named(run):
    result = run("WRITES_GAP", "strided")
    assert "between the rows of 'input'" in result.canary
    assert result.mutated == ""
    assert not result.right


def test_writes_after_the_last_row_are_beside_the_buffer(run):
    result = run("WRITES_BEHIND_ROWS", "strided")
    assert "after 'input'" in result.canary


@pytest.mark.parametrize(("bug", "name"), [("WRITES_INPUT", "input"), ("WRITES_WEIGHT", "weight")])
@pytest.mark.parametrize("workload", ["whole", "strided"])
def test_written_inputs_are_named(run, bug, name, workload):
    result = run(bug, workload)
    assert result.mutated == name
    assert not result.right


def test_a_small_error_in_one_row_is_wrong_but_passes_the_loose_test(run):
    assert "relative RMS error" in run("OFF_BY_LITTLE").wrong
    assert run("OFF_BY_LITTLE", function=smoke_case) == ""


def test_smoke_sees_gross_errors_only(run):
    assert run("NONE", function=smoke_case) == ""
    assert "NaN" in run("DROPS_ROW", function=smoke_case)
    assert run("WRITES_AFTER", function=smoke_case) == ""


@pytest.mark.parametrize(
    ("bug", "error", "text"),
    [
        ("THROWS", WorkerRaised, "thrown by the submission"), ("ABORTS", WorkerDied, "SIGABRT"), ("SEGFAULTS", WorkerDied, "SIGSEGV"),
        ("EXITS", WorkerDied, "exited with status 7"),
    ],
)  # fmt: skip
def test_what_ends_the_process_is_told_apart(run, bug, error, text):
    with pytest.raises(error, match=text):
        run(bug)


def test_what_never_returns_runs_into_the_deadline(run):
    with pytest.raises(WorkerTimedOut, match="no answer within 1 s"):
        run("SLEEPS", seconds=1.0)
