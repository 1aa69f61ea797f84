"""The integrate gate on a GPU: for every check a kernel that is right when it is called and fails that check; all seeds pass them all.

``-s`` prints the wall seconds of every check.
"""

from __future__ import annotations

import pytest
import torch

from fastkernels_env.build import Build
from fastkernels_env.checks import BY_NAME, CHECKS, CheckList
from fastkernels_env.judge.effort import get_effort
from fastkernels_env.judge.gate import Gate
from fastkernels_env.judge.scope import Scope
from fastkernels_env.registry import load_task, task_folders
from fastkernels_env.submission import extract
from fastkernels_env.types import Evidence, Outcome, Stage, Status

SEEDS = [(name, seed) for name in task_folders() for seed in ("triton.py", "cuda.cu") if (task_folders()[name] / "seeds" / seed).exists()]
TRITON, CUDA = (load_task("rms_norm").seeds()[name] for name in ("triton.py", "cuda.cu"))
START = "    rows, width = input.shape\n"
ALLOC = "  if (rows == 0) return;\n"
DECISIVE = {spec.name for spec in CHECKS if spec.stage is Stage.INTEGRATE and not spec.advisory}


def changed(source, *pairs):
    for find, replace in pairs:
        assert source.count(find) == 1, find
        source = source.replace(find, replace)
    return source


def before(code, top=""):
    """The Triton seed with a module level and a first statement of its own."""
    return "import torch\n" + changed(TRITON, ("\n\n@triton.jit", f"\n\n{top}\n\n@triton.jit"), (START, f"{code}\n{START}"))


def after(code, top=""):
    """The same with a last statement."""
    return before("", top) + f"    {code}\n"


def in_two_kernels(workspace, top=""):
    """The seed on a copy of its input that a first kernel makes in a workspace."""
    copy = "\n\n@triton.jit\ndef _copy(to, x, width, stride, BLOCK: tl.constexpr):\n" \
        "    row, columns = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)\n" \
        "    tl.store(to + row * width + columns, tl.load(x + row * stride + columns, mask=columns < width), mask=columns < width)\n"
    call = f"        space = {workspace}\n        _copy[(rows,)](space, input, width, input.stride(0), BLOCK=block)\n"
    return "import torch\n" + changed(
        TRITON, ("\n\n@triton.jit", f"\n\n{top}{copy}\n\n@triton.jit"), ("        warps =", f"{call}        warps ="),
        ("(out, input, weight, width, input.stride(0)", "(out, space, weight, width, width"),
    )  # fmt: skip


REFILLED = "_spaces = {}"
SHARED = "_spaces.setdefault(input.shape, torch.empty(rows, width, dtype=input.dtype, device=input.device))"
OWN = "torch.empty(rows, width, dtype=input.dtype, device=input.device)"
REMEMBERS = """    if torch.cuda.is_current_stream_capturing():
        input = _seen[input.shape]
    else:
        _seen[input.shape] = input.clone()"""
SIZE_CONSTANT = changed(
    TRITON, ("BLOCK: tl.constexpr):", "ROWS: tl.constexpr, BLOCK: tl.constexpr):"), ("BLOCK=block,", "ROWS=rows, BLOCK=block,"),
)  # fmt: skip
BUCKETED = SIZE_CONSTANT.replace("ROWS=rows", "ROWS=triton.next_power_of_2(rows)")
MALLOC = changed(
    CUDA, (ALLOC, ALLOC + "  void* space;\n  TVM_FFI_ICHECK(cudaMalloc(&space, 1 << 20) == cudaSuccess) << \"cudaMalloc failed\";\n"),
    ('<< "launch failed";\n', '<< "launch failed";\n  cudaFree(space);\n'),
)  # fmt: skip
DEFAULT_STREAM = changed(CUDA, ("kThreads, 0, stream>>>", "kThreads, 0, 0>>>"))
FAILING = {
    "host sync": (before("    float(weight.float().sum())"), {"cuda_graph"}, Evidence.REPORTED, ""),
    "stale replay": (before(REMEMBERS, "_seen = {}"), {"cuda_graph"}, Evidence.JUDGED, "a replay on new data gave a wrong answer"),
    "cudaMalloc": (MALLOC, {"cuda_graph"}, Evidence.REPORTED, ""),
    "default stream": (DEFAULT_STREAM, {"side_stream", "cuda_graph"}, Evidence.JUDGED, "did not wait for"),
    "shared workspace": (in_two_kernels(SHARED, REFILLED), {"concurrent_streams"}, Evidence.JUDGED, "beside a call on another stream"),
    "mutates its input": (after("input.mul_(2)"), {"op_schema"}, Evidence.JUDGED, "'input', which the schema declares read-only"),
    "needs a view": (
        before("    if not torch.compiler.is_compiling() and not out._is_view():\n        raise ValueError('expected a view')"),
        {"opaque_graph"}, Evidence.REPORTED, "expected a view",
    ),
    "size is a constant": (SIZE_CONSTANT, {"recompiles"}, Evidence.JUDGED, "compilations of '_rms_norm'"),
    "keeps memory": (after("_kept.append(torch.empty_like(out))", "_kept = []"), {"memory_growth"}, Evidence.REPORTED, "grew by"),
    "sets TF32": (
        before("", "torch.backends.cuda.matmul.allow_tf32 = True"), {"global_state"}, Evidence.REPORTED, "TF32 in matrix products",
    ),
}  # fmt: skip
PASSING = {
    "own workspace": in_two_kernels(OWN), "buckets of sizes": BUCKETED,
    "bounded memory": before("    _space.setdefault(0, torch.empty(1 << 20, device=out.device))", "_space = {}"),
}


@pytest.fixture
def gate(judge):
    """Runs a submission through the gate alone: its checks by name, and the seconds that each took."""
    def run(text, name="rms_norm"):
        task, checks, opened = load_task(name), CheckList("cuda"), judge.open()
        submission = extract(text, task, "cuda")
        with Build(submission) as build, opened.device.judging():
            gate = Gate(Scope(opened, task, 7, get_effort("full"), checks), build.result())
            try:
                gate.run()
            finally:
                gate.close()
        return {check.name: check for check in checks.finish("") if check.stage is Stage.INTEGRATE}, gate.seconds

    return run


def failures(checks):
    return {name: check.detail for name, check in checks.items() if check.status is Status.FAILED and not BY_NAME[name].advisory}


def told(what, seconds):
    print(f"\n{what}: {sum(seconds.values()):.2f} s;", ", ".join(f"{name} {spent:.2f}" for name, spent in seconds.items()))


@pytest.mark.parametrize(("task", "seed"), SEEDS)
def test_seeds_pass_every_check(gate, task, seed):
    checks, seconds = gate(load_task(task).seeds()[seed], task)
    told(f"{task} {seed}", seconds)
    assert failures(checks) == {}
    assert {name for name, check in checks.items() if check.status is Status.PASSED} >= DECISIVE
    if seed == "triton.py":
        assert checks["inline_trace"].status is Status.PASSED, checks["inline_trace"].detail


@pytest.mark.parametrize("what", FAILING)
def test_one_check_is_failed_by_what_it_is_for(gate, what):
    source, names, evidence, detail = FAILING[what]
    checks, seconds = gate(source)
    told(what, seconds)
    found = failures(checks)
    print(found)
    assert set(found) == names, found
    decisive = next(iter(sorted(names, reverse=True)))
    assert detail in found[decisive]
    assert checks[decisive].evidence is evidence


@pytest.mark.parametrize("what", PASSING)
def test_honest_twins_pass(gate, what):
    checks, _ = gate(PASSING[what])
    assert failures(checks) == {}


def test_second_device_is_not_run_where_there_is_none(gate):
    if torch.cuda.device_count() > 1:
        pytest.skip("two devices are visible")
    checks, _ = gate(TRITON)
    assert checks["second_device"].status is Status.NOT_RUN
    assert "only one device" in checks["second_device"].detail


@pytest.mark.parametrize(("guard", "status"), [("False", Status.FAILED), ("True", Status.PASSED)])
def test_a_kernel_without_a_device_guard_fails_on_the_second_device(gate, guard, status):
    if torch.cuda.device_count() < 2:
        pytest.skip("only one device is visible")
    source = TRITON.replace("def rms_norm", "def _inner") + (
        "\n\ndef rms_norm(out, input, weight, epsilon):\n    import contextlib, torch\n"
        f"    with torch.cuda.device(out.device) if {guard} else contextlib.nullcontext():\n        _inner(out, input, weight, epsilon)\n"
    )
    checks, _ = gate(source)
    assert checks["second_device"].status is status, checks["second_device"].detail


def test_a_conflict_is_an_outcome_and_is_timed(judge, record):
    evaluation = judge.evaluate("rms_norm", FAILING["host sync"][0], effort="quick")
    record(evaluation)
    assert evaluation.outcome is Outcome.STACK_CONFLICT, evaluation.feedback
    assert evaluation.reason.startswith("cuda_graph failed: ")
    assert evaluation.timings
