"""Building with real compilers: artefacts, errors cut to what matters, compilers that never end."""

from __future__ import annotations

import os
import subprocess
import tempfile
import textwrap
import time
from pathlib import Path

import pytest

from fastkernels_env import Outcome
from fastkernels_env.build import Build, BuildError, BuildTimeout, first_error, has_nvcc, ptxas_resources, trim_log
from fastkernels_env.submission import extract
from fastkernels_env.types import Language, Status, Submission

HEAD = "#include <fastkernels.h>\n"
ENTRY = "void tiny_scale(tvm::ffi::TensorView out, tvm::ffi::TensorView input, tvm::ffi::TensorView weight, double factor) {"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Where builds put their folders."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def cpp(code):
    return Submission(code=code, language=Language.CPP, entry="tiny_scale", arguments=("out", "input", "weight", "factor"))


def failure(code, seconds=120.0):
    with Build(cpp(code)) as build, pytest.raises(BuildError) as caught:
        build.result(seconds)
    return caught.value


def test_a_library_with_the_entry_is_built_and_then_removed(folder, task_files):
    with Build(cpp(textwrap.dedent(task_files.texts["cpu"]))) as build:
        artifact = build.result()
        assert Path(artifact.path).is_relative_to(folder)
        assert b"__tvm_ffi_tiny_scale" in Path(artifact.path).read_bytes()
        assert (artifact.language, artifact.entry) == (Language.CPP, "tiny_scale")
        assert build.seconds > 0
    assert list(folder.iterdir()) == []


def test_the_first_error_comes_with_the_submissions_line_number():
    error = failure(f"{HEAD}\n{ENTRY}\n  int a = 1;\n  int b = no_such_name;\n  int c = another_one;\n}}\n")
    assert not isinstance(error, BuildTimeout)
    assert error.summary.startswith("submission.cpp:5:")
    assert "no_such_name" in error.summary
    assert "submission.cpp:6:" in error.log
    assert len(error.log.splitlines()) <= 45


def test_errors_in_templates_are_cut():
    deep = "".join(f"template <typename T> void f{i}(T t) {{ f{i + 1}(t); }}\n" for i in reversed(range(300)))
    code = f"{HEAD}template <typename T> void f300(T t) {{ t.no_such_member(); }}\n{deep}{ENTRY} f0(1); }}\n"
    error = failure(code)
    assert "no_such_member" in error.log
    assert len(error.log) < 44 * 401


def test_an_entry_that_is_not_defined_fails():
    error = failure(f"{HEAD}void tiny_scales() {{}}\n")
    assert "tiny_scale" in error.log


def test_an_entry_that_is_only_declared_fails_to_link_or_to_load(evaluator, tiny):
    evaluation = evaluator.evaluate("tiny_scale", f"```cpp\n{HEAD}{ENTRY[:-2]};\n```")
    assert evaluation.outcome in (Outcome.REJECTED, Outcome.BUILD_FAILED, Outcome.CRASHED)


def test_warnings_are_no_errors():
    with Build(cpp(f"{HEAD}#warning this is a warning\n{ENTRY} int unused; }}\n")) as build:
        assert build.result().path


def test_headers_that_do_not_exist_are_named():
    error = failure(f"{HEAD}#include <no/such/header.h>\n{ENTRY} }}\n")
    assert "no/such/header.h" in error.summary


def compilers(folder):
    """Processes whose working folder or command names this folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                text = os.readlink(entry / "cwd") + (entry / "cmdline").read_text()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if str(folder) in text and state != "Z":
                found.append(int(entry.name))
    return found


ENDLESS = """
    template <unsigned long long A, int D> struct Tree {
      static constexpr int value = Tree<2 * A, D - 1>::value + Tree<2 * A + 1, D - 1>::value;
    };
    template <unsigned long long A> struct Tree<A, 0> { static constexpr int value = 1; };
    int endless = Tree<1, 60>::value;
"""


def test_a_compiler_that_never_ends_is_ended_with_everything_it_started(folder):
    with Build(cpp(f"{HEAD}{ENDLESS}{ENTRY} }}\n")) as build:
        deadline = time.monotonic() + 30
        while len(compilers(folder)) < 4 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(compilers(folder)) >= 4, "ninja, a shell, the compiler's driver and its first pass"
        with pytest.raises(BuildTimeout, match="did not finish within 1 s"):
            build.result(1.0)
    deadline = time.monotonic() + 10
    while compilers(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert compilers(folder) == []
    assert list(folder.iterdir()) == []


def test_closing_a_build_early_ends_it(folder):
    build = Build(cpp(f"{HEAD}{ENTRY} }}\n"))
    build.close()
    assert compilers(folder) == []
    assert list(folder.iterdir()) == []


def python(code):
    return Submission(code=code, language=Language.PYTHON, entry="f", arguments=())


def test_python_is_compiled_and_not_run(tmp_path):
    with Build(python(f"open({str(tmp_path / 'witness')!r}, 'w')\ndef f(): pass\n")) as build:
        artifact = build.result()
        assert Path(artifact.path).read_text().startswith("open(")
    assert not (tmp_path / "witness").exists()


@pytest.mark.parametrize(
    ("code", "summary"),
    [
        ("def f(:\n    pass\n", "line 1: SyntaxError"),
        ("def f():\n    x = 1\n      y = 2\n", "line 3: IndentationError"),
        ("def f():\n    return\nreturn 1\n", "line 3: SyntaxError"),
        ("def f():\n    x = " + "-" * 30_000 + "1\n", "Error"),
        ("def f():\n    x = a" + ".a" * 20_000 + "\n", "RecursionError"),
        ("def f():\n    x = 1" + "+1" * 20_000 + "\n", "RecursionError"),
        ("def f():\n    x = " + "[" * 500 + "]" * 500 + "\n", "Error"),
    ],
)
def test_python_that_does_not_compile_fails(code, summary):
    with Build(python(code)) as build, pytest.raises(BuildError) as caught:
        build.result()
    assert summary in caught.value.summary


def test_build_failures_in_an_evaluation(evaluator, tiny):
    native = evaluator.evaluate("tiny_scale", f"```cpp\n{HEAD}{ENTRY} return 1; }}\n```")
    assert native.outcome is Outcome.BUILD_FAILED
    assert "submission.cpp:2:" in native.reason
    assert native.build_log in native.feedback
    assert native.check("build").status is Status.FAILED
    assert native.check("smoke").status is Status.NOT_RUN
    assert native.baselines == [] or all(b.status != "failed" for b in native.baselines)
    scripted = evaluator.evaluate("tiny_scale", "```python\ndef tiny_scale(out, input, weight, factor):\n    return (\n```")
    assert scripted.outcome is Outcome.BUILD_FAILED
    assert "line 2" in scripted.reason
    deep = evaluator.evaluate("tiny_scale", f"def tiny_scale(out, input, weight, factor):\n    x = 1{'+1' * 20_000}\n")
    assert deep.outcome is Outcome.BUILD_FAILED


TRITON = """
    import triton
    import triton.language as tl


    @triton.jit
    def kernel(out, input, weight, factor, width, stride, BLOCK: tl.constexpr):
        row, columns = tl.program_id(0), tl.arange(0, BLOCK)
        mask = columns < width
        values = tl.load(input + row * stride + columns, mask=mask) * tl.load(weight + columns, mask=mask)
        tl.store(out + row * width + columns, values * factor, mask=mask)


    def tiny_scale(out, input, weight, factor):
        rows, width = input.shape
        if rows:
            kernel[(rows,)](out, input, weight, factor, width, input.stride(0), BLOCK=64)
"""


def triton(code):
    return f"```python\n{textwrap.dedent(code).strip()}\n```"


def test_right_triton_on_a_cpu_is_unmeasured(evaluator, tiny):
    evaluation = evaluator.evaluate("tiny_scale", triton(TRITON))
    assert evaluation.outcome is Outcome.UNMEASURED, evaluation.reason
    assert evaluation.speedup is None
    assert evaluation.timings == []
    for name in ("smoke", "public_shapes", "hidden_shapes", "empty_batch"):
        assert evaluation.check(name).status is Status.PASSED
    for name in ("timed_outputs", "clock"):
        assert evaluation.check(name).status is Status.NOT_RUN
    assert evaluation.resources["kernels"] == 1
    assert evaluation.resources["registers"] > 0


@pytest.mark.parametrize(
    ("find", "replace", "outcomes"),
    [
        ("* factor, mask", "+ factor, mask", {Outcome.WRONG}),
        ("input + row * stride", "input + row * width + 0 * stride", {Outcome.WRONG, Outcome.SILENT_ERROR, Outcome.UNMEASURED}),
        ("if rows:", "if rows > 1:", {Outcome.SILENT_ERROR, Outcome.UNMEASURED}),
        ("values * factor", "no_such_name * factor", {Outcome.BUILD_FAILED}),
        ("tl.arange(0, BLOCK)", "tl.arange(0, BLOCK - 1)", {Outcome.BUILD_FAILED}),
        ("    if rows:", "    raise RuntimeError('no')\n    if rows:", {Outcome.CRASHED}),
    ],
)
def test_wrong_triton_on_a_cpu(find, replace, outcomes, evaluator, tiny):
    assert find in TRITON
    evaluation = evaluator.evaluate("tiny_scale", triton(TRITON.replace(find, replace)))
    assert evaluation.outcome in outcomes, evaluation.reason


CUDA = """
    #include <tvm/ffi/container/tensor.h>

    __global__ void kernel(float* out) { out[threadIdx.x] = 0; }

    void tiny_scale(tvm::ffi::TensorView out, tvm::ffi::TensorView input, tvm::ffi::TensorView weight, double factor) {
      kernel<<<1, 32>>>(static_cast<float*>(out.data_ptr()));
    }
"""


def test_cuda_on_a_cpu_host_is_rejected_and_the_attempt_recorded(evaluator, tiny):
    evaluation = evaluator.evaluate("tiny_scale", f"```cuda\n{textwrap.dedent(CUDA)}```")
    assert evaluation.outcome is Outcome.REJECTED
    assert evaluation.language == "cuda"
    if has_nvcc():
        assert evaluation.check("build").status is Status.PASSED
        assert "it compiles for sm_90a" in evaluation.reason
    else:
        assert evaluation.check("build").status is Status.NOT_RUN
        assert "there is no nvcc" in evaluation.reason
    assert "CUDA host" in evaluation.reason


@pytest.mark.skipif(not has_nvcc(), reason="there is no nvcc on this host")
def test_cuda_that_does_not_compile_says_so_where_there_is_a_compiler(evaluator, tiny):
    evaluation = evaluator.evaluate("tiny_scale", f"```cuda\n{textwrap.dedent(CUDA).replace('threadIdx', 'threadIdy')}```")
    assert evaluation.outcome is Outcome.BUILD_FAILED
    assert "threadIdy" in evaluation.build_log


def test_the_log_of_a_real_compiler_is_trimmed(tmp_path):
    source = tmp_path / "a.cpp"
    source.write_text("#include <vector>\n" + "int f() { return x; }\n" * 200)
    raw = subprocess.run(["c++", "-c", source, "-o", tmp_path / "a.o"], capture_output=True, text=True).stderr
    log = trim_log(raw)
    assert len(log.splitlines()) < 45 < len(raw.splitlines())
    assert first_error(log).endswith("error: 'x' was not declared in this scope") or "not declared" in first_error(log)


@pytest.mark.parametrize("log", ["", "\n\n", "ninja: build stopped\n", "x" * 10_000, "no such word in here\nat all"])
def test_logs_without_an_error_still_give_one_line(log):
    line = first_error(trim_log(log))
    assert 0 < len(line) <= 300
    assert "\n" not in line


def test_ptxas_figures_are_the_largest_of_all_kernels():
    log = (
        "ptxas info    : Used 32 registers, used 1 barriers, 1024 bytes smem, 400 bytes cmem[0]\n"
        "    0 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads\n"
        "ptxas info    : Used 168 registers, 360 bytes cmem[0]\n"
        "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
    )
    assert ptxas_resources(log) == {"registers": 168.0, "shared_bytes": 1024.0, "spill_bytes": 12.0}
    assert ptxas_resources("nothing of the kind") == {}


def test_extraction_and_build_agree_on_the_language(tiny, task_files):
    assert extract(f"```cpp\n{textwrap.dedent(task_files.texts['cpu'])}```", tiny, "cpu").language is Language.CPP
