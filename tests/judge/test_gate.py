"""The integrate gate on a CPU: for every check a submission that is right when it is called and fails that check, and its honest twin."""

from __future__ import annotations

import os
import textwrap
import time

import pytest

from fastkernels_env import Outcome
from fastkernels_env.build import Build
from fastkernels_env.checks import CHECKS, CheckList
from fastkernels_env.judge.drill import Drill
from fastkernels_env.judge.effort import get_effort
from fastkernels_env.judge.gate import Gate
from fastkernels_env.judge.growth import growth
from fastkernels_env.judge.rig import start_worker, state_changes
from fastkernels_env.judge.scope import Scope
from fastkernels_env.ops import schema_of
from fastkernels_env.registry import load_task
from fastkernels_env.submission import extract
from fastkernels_env.types import Evidence, Stage, Status

PLAIN = """
    import torch

    {top}

    def tiny_scale(out, input, weight, factor):
        {before}
        torch.mul(input, weight, out=out)
        out.mul_(factor)
        {after}
"""
PREPARED = """
    import torch

    def prepare(out, input, weight, factor):
        return weight * factor

    def tiny_scale(out, input, weight, factor, *, prepared):
        torch.mul(input, prepared, out=out)
"""
COMPILED = """
    import torch

    @torch.compile(dynamic={dynamic}, backend="eager")
    def _scale(out, input, weight, factor):
        out.copy_(input * weight * factor)

    def tiny_scale(out, input, weight, factor):
        _scale(out, input, weight, factor)
"""
OWN_CHECKS = {spec.name for spec in CHECKS if spec.stage is Stage.INTEGRATE and "cpu" in spec.devices}


def plain(top="", before="", after=""):
    return PLAIN.format(top=top, before=before, after=after)


def fenced(code, language="python"):
    return f"```{language}\n{textwrap.dedent(code).strip()}\n```"


@pytest.fixture
def gate(evaluator, tiny):
    """Runs a submission of the quick task through the gate alone; the checks by name."""
    judge = evaluator.open()

    def run(code, language="python", task=tiny, interpreted=False):
        checks = CheckList("cpu")
        submission = extract(fenced(code, language), task, "cpu")
        with Build(submission) as build, judge.device.judging():
            gate = Gate(Scope(judge, task, 7, get_effort("quick"), checks, interpreted), build.result())
            try:
                gate.run()
            finally:
                gate.close()
        return {check.name: check for check in checks.finish("") if check.stage in (Stage.INTEGRATE, Stage.VERIFY)}

    return run


def failures(checks):
    return {name for name, check in checks.items() if check.status is Status.FAILED}


def passes(checks):
    return {name for name, check in checks.items() if check.status is Status.PASSED}


@pytest.mark.parametrize(
    "code",
    [
        plain(), PREPARED, COMPILED.format(dynamic=True),
        plain("import numpy\nimport warnings\n_sizes = {}".replace("\n", "\n    "), "_sizes[input.shape] = _sizes.get(input.shape, 0) + 1"),
        plain("_space = {}", "_space.setdefault(1 << input.shape[0].bit_length(), torch.ones(1 << 16))"),
    ],
    ids=["plain", "prepared", "compiled", "reads-state", "bounded-cache"],
)
def test_honest_python_passes_every_check(gate, code):
    checks = gate(code)
    assert failures(checks) == set(), {name: checks[name].detail for name in failures(checks)}
    assert passes(checks) == OWN_CHECKS


def test_honest_native_code_passes_and_has_nothing_to_trace(gate, task_files):
    checks = gate(task_files.texts["cpu"], "cpp")
    assert passes(checks) == OWN_CHECKS - {"inline_trace"}
    assert checks["inline_trace"].status is Status.NOT_RUN
    assert "native" in checks["inline_trace"].detail
    assert "aot_eager" in checks["opaque_graph"].detail


@pytest.mark.parametrize(
    ("code", "name", "evidence", "detail"),
    [
        (plain(after="input.mul_(2)"), "op_schema", Evidence.JUDGED, "'input', which the schema declares read-only, was modified"),
        (plain(before="if float(input.sum()) > 1e30:\n            return"), "inline_trace", Evidence.REPORTED, "data-dependent"),
        (COMPILED.format(dynamic=False), "recompiles", Evidence.REPORTED, "compilations of 'torch.compile' for 17 batch sizes"),
        (plain("_kept = []", after="_kept.append(torch.ones(1 << 17))"), "memory_growth", Evidence.JUDGED, "memory of the process grew by"),
        (plain("torch.set_default_dtype(torch.float64)"), "global_state", Evidence.REPORTED, "loading it changed default dtype"),
        (plain(before="torch.rand(1)"), "global_state", Evidence.REPORTED, "calling it changed the state of the RNG of torch (CPU)"),
    ],
    ids=["mutates-input", "branches-on-data", "compiles-each-size", "keeps-memory", "sets-dtype", "draws"],
)
def test_one_check_is_failed_by_what_it_is_for(gate, code, name, evidence, detail):
    checks = gate(code)
    assert failures(checks) == {name}, {failed: checks[failed].detail for failed in failures(checks)}
    assert detail in checks[name].detail
    assert checks[name].evidence is evidence


def test_what_grows_little_but_steadily_is_watched_for_longer(gate):
    checks = gate(plain("_kept = []", after="_kept.append(torch.ones(1 << 11))"))
    assert failures(checks) == {"memory_growth"}
    assert "memory of the process grew by" in checks["memory_growth"].detail
    few = gate(plain("_kept = []", after="_kept.append(torch.ones(1 << 11)) if len(_kept) < 100 else None"))
    assert failures(few) == set(), few["memory_growth"].detail


@pytest.mark.parametrize(
    ("kept", "detail"),
    [
        ("os.open(os.devnull, os.O_RDONLY)", "the number of its open files grew by"),
        ("threading.Thread(target=time.sleep, args=(60,), daemon=True).start()", "the number of its threads and processes grew by"),
    ],
    ids=["files", "threads"],
)
def test_what_is_kept_for_every_call_is_counted(gate, kept, detail):
    checks = gate(plain("import os, threading, time", after=kept))
    assert failures(checks) == {"memory_growth", "inline_trace"}  # Dynamo traces neither
    assert detail in checks["memory_growth"].detail
    assert checks["memory_growth"].evidence is Evidence.JUDGED


@pytest.mark.parametrize(
    ("code", "changed"),
    [
        ("import gc\n    gc.disable()", "garbage collector"),
        ("import sys\n    sys.setswitchinterval(1.0)", "thread switch interval"),
        ("import sys\n    sys.setprofile(lambda *args: None)", "trace and profile functions"),
        ("import signal\n    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])", "blocked signals"),
        ("import ctypes\n    ctypes.CDLL(None).signal(15, ctypes.c_void_p(1))", "handling of SIGTERM"),
        ("import ctypes\n    ctypes.CDLL(None).signal(15, ctypes.CDLL(None).puts)", "handling of SIGTERM"),
        ("import os\n    os.environ['FK_LOOKS_LIKE'] = 'libtriton.so'", "environment variable FK_LOOKS_LIKE"),
        ("import signal\n    signal.setitimer(signal.ITIMER_REAL, 1000)", "interval timers"),
        ("import os\n    os.nice(5)", "priority"),
        ("import resource\n    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))", "resource limits"),
        ("import locale\n    locale.setlocale(locale.LC_ALL, 'C.UTF-8')\n    locale.setlocale(locale.LC_NUMERIC, 'C')", "locale"),
        ("import ctypes\n    ctypes.CDLL(None).setenv(b'OMP_NUM_THREADS', b'1', 1)", "environment variable OMP_NUM_THREADS"),
    ],
)  # fmt: skip
def test_what_the_process_shares_is_looked_at(gate, code, changed):
    checks = gate(plain(code))
    assert failures(checks) == {"global_state"}, {failed: checks[failed].detail for failed in failures(checks)}
    assert f"loading it changed {changed} (" in checks["global_state"].detail


def test_a_handler_for_crashes_is_a_librarys_own_business(gate):
    checks = gate(plain("import faulthandler\n    faulthandler.enable(open('/dev/null', 'w'))"))
    assert failures(checks) == set()


COMPILES = """
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def double(x):
    tl.store(x, 2 * tl.load(x))


triton.compile(ASTSource(double, {"x": "*fp32"}), target=GPUTarget("cuda", 90, 32))


def tiny_scale(out, input, weight, factor):
    out.copy_(input * weight * factor)
"""


def test_what_tritons_compiler_does_to_signals_is_its_own_business(gate):
    assert failures(gate(COMPILES)) == set()


LATE = """
    import threading
    import time

    import torch

    seen = set()


    def finish(out, input, weight, factor):
        time.sleep(0.3)
        torch.mul(input, weight, out=out)
        out.mul_(factor)


    def tiny_scale(out, input, weight, factor):
        seen.add(input.shape)
        if len(seen) > 2:
            threading.Thread(target=finish, args=(out, input, weight, factor)).start()
        else:
            torch.mul(input, weight, out=out)
            out.mul_(factor)
"""


def test_what_comes_after_the_call_is_too_late_on_new_sizes(gate, task_files, tmp_path, monkeypatch):
    """The baselines are asked meanwhile, which takes a while: what is compared must be what was there at first."""
    slow = task_files.texts["eager"].replace("torch.mul(input", "__import__('time').sleep(1)\n        torch.mul(input")
    task_files(tmp_path / "slow_scale", eager=slow)
    monkeypatch.setenv("FASTKERNELS_ENV_PATH", str(tmp_path))
    checks = gate(LATE, task=load_task("slow_scale"))
    assert "recompiles" in failures(checks)
    assert "on a batch size that it had not met before it gave a wrong answer" in checks["recompiles"].detail


NOT_A_VIEW = "if not torch.compiler.is_compiling() and not out._is_view():\n            {}"
"""True while a compiled graph runs and at no other time: the judge's own buffers are views."""


def test_what_breaks_inside_a_compiled_graph_fails_there(gate):
    checks = gate(plain(before=NOT_A_VIEW.format("raise ValueError('expected a view of the pool')")))
    assert failures(checks) == {"opaque_graph"}, failures(checks)
    assert "ValueError: expected a view of the pool" in checks["opaque_graph"].detail
    assert "torch.compile" in checks["opaque_graph"].detail
    assert checks["opaque_graph"].evidence is Evidence.REPORTED


def test_what_is_wrong_inside_a_compiled_graph_is_seen_by_the_judge(gate):
    checks = gate(plain(after=NOT_A_VIEW.format("out.mul_(1.1)")))
    assert failures(checks) == {"opaque_graph"}, failures(checks)
    assert "gave a wrong answer: out: " in checks["opaque_graph"].detail
    assert checks["opaque_graph"].evidence is Evidence.JUDGED


def test_a_gate_that_is_given_up_while_it_opens_ends_its_worker(evaluator, tiny):
    judge = evaluator.open()
    slow = plain(top="import time\n    time.sleep(100)")
    with Build(extract(fenced(slow), tiny, "cpu")) as build:
        gate = Gate(Scope(judge, tiny, 7, get_effort("quick"), CheckList("cpu")), build.result())
        gate.start()
        while gate._rig is None or gate._rig.session is None:
            time.sleep(0.01)
        pid = gate._rig.session.pid
        gate.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.fixture
def given(evaluator, tiny):
    """Runs a submission through the gate in a worker that was started and loaded before; the checks by name, and that worker."""
    judge, sessions = evaluator.open(), []

    def run(code):
        checks = CheckList("cpu")
        scope = Scope(judge, tiny, 7, get_effort("quick"), checks)
        with Build(extract(fenced(code), tiny, "cpu")) as build, judge.device.judging():
            artifact = build.result()
            sessions.append(start_worker(scope))
            sessions[-1].load(scope.load_request(artifact), 20.0)
            gate = Gate(scope, artifact, sessions[-1], state_changes(sessions[-1]))
            try:
                gate.run()
            finally:
                gate.close()
        assert gate.lost is not sessions[-1].living
        return {check.name: check for check in checks.finish("") if check.stage in (Stage.INTEGRATE, Stage.VERIFY)}, sessions[-1]

    yield run
    for session in sessions:
        session.close()


def test_a_worker_that_is_given_passes_as_one_of_the_gate_s_own_does_and_lives_on(given):
    checks, session = given(plain())
    assert passes(checks) == OWN_CHECKS
    assert session.living
    session.forget()
    os.kill(session.pid, 0)


def test_what_loading_changed_in_a_worker_that_is_given_is_held_against_it(given):
    checks, _ = given(plain("torch.set_default_dtype(torch.float64)"))
    assert failures(checks) >= {"global_state"}
    assert "loading it changed" in checks["global_state"].detail


def test_where_a_check_ends_the_worker_that_was_given_the_others_get_another(given):
    checks, session = given(plain("import os", NOT_A_VIEW.format("os._exit(3)")))
    assert failures(checks) == {"opaque_graph"}
    assert passes(checks) == OWN_CHECKS - {"opaque_graph"}
    assert not session.living


DIES_IN_A_GRAPH = "if out.numel() and not torch.compiler.is_compiling() and not out._is_view(): os._exit(3)"


@pytest.mark.parametrize(("after", "outcome"), [("", Outcome.ACCEPTED), (DIES_IN_A_GRAPH, Outcome.STACK_CONFLICT)])
def test_where_workers_are_dear_one_goes_through_all_stages_and_is_timed(evaluator, tiny, monkeypatch, after, outcome):
    monkeypatch.setattr(evaluator.open().device, "dear_workers", True)
    evaluation = evaluator.evaluate("tiny_scale", fenced(plain("import os", after)))
    assert evaluation.outcome is outcome, evaluation.reason
    assert evaluation.timings


def test_a_worker_that_dies_fails_that_check_and_the_others_go_on(gate):
    checks = gate(plain("import os", NOT_A_VIEW.format("os._exit(3)")))
    assert failures(checks) == {"opaque_graph"}, failures(checks)
    assert "process ended: exited with status 3" in checks["opaque_graph"].detail
    assert checks["opaque_graph"].evidence is Evidence.JUDGED
    assert passes(checks) == OWN_CHECKS - {"opaque_graph"}


def test_an_entry_that_returns_something_is_no_operator(gate):
    checks = gate(plain(after="return out"))
    assert {"op_schema", "opaque_graph"} == failures(checks)
    assert "to return None" in checks["op_schema"].detail


def test_a_right_kernel_that_breaks_in_the_stack_is_a_conflict_and_is_timed(evaluator, tiny):
    evaluation = evaluator.evaluate("tiny_scale", fenced(COMPILED.format(dynamic=False)))
    assert evaluation.outcome is Outcome.STACK_CONFLICT, evaluation.reason
    assert evaluation.reason.startswith("recompiles failed: 17 compilations")
    assert "every batch size that is new stalls the server" in evaluation.reason
    assert evaluation.timings
    assert evaluation.check("timed_outputs").status is Status.PASSED
    assert evaluation.seconds["integrate"] > 0


def test_an_advisory_failure_is_recorded_and_decides_nothing(evaluator, tiny):
    evaluation = evaluator.evaluate("tiny_scale", fenced(plain(before="if float(input.sum()) > 1e30:\n            return")))
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason
    assert evaluation.check("inline_trace").status is Status.FAILED


def test_what_is_wrong_is_not_run_through_the_gate(evaluator, tiny):
    evaluation = evaluator.evaluate("tiny_scale", fenced(plain(after="if input.shape[0] != 16:\n            out.zero_()")))
    assert evaluation.outcome is Outcome.SILENT_ERROR, evaluation.reason
    assert {check.status for check in evaluation.checks if check.stage is Stage.INTEGRATE} == {Status.NOT_RUN}


TRITON = """
    import triton
    import triton.language as tl

    @triton.jit
    def _scale(out, x, weight, width, stride, factor, BLOCK: tl.constexpr):
        row, columns = tl.program_id(0), tl.arange(0, BLOCK)
        values = tl.load(x + row * stride + columns, mask=columns < width) * tl.load(weight + columns, mask=columns < width)
        tl.store(out + row * width + columns, values * factor, mask=columns < width)

    def tiny_scale(out, input, weight, factor):
        rows, width = input.shape
        {before}
        _scale[(rows,)](out, input, weight, width, input.stride(0), factor, BLOCK=triton.next_power_of_2(width))
"""


@pytest.mark.parametrize(("before", "outcome"), [("", Outcome.UNMEASURED), ("__import__('os').umask(0)", Outcome.STACK_CONFLICT)])
def test_the_interpreter_runs_what_makes_sense_there(evaluator, tiny, before, outcome):
    evaluation = evaluator.evaluate("tiny_scale", fenced(TRITON.format(before=before)))
    assert evaluation.outcome is outcome, evaluation.reason
    assert evaluation.check("op_schema").status is Status.PASSED
    for name in ("opaque_graph", "inline_trace", "recompiles", "memory_growth"):
        assert evaluation.check(name).status is Status.NOT_RUN
        assert "interpreter" in evaluation.check(name).detail


FORGED = """
    import os, socket, struct, msgspec, torch

    def tiny_scale(out, input, weight, factor):
        frame = msgspec.msgpack.encode({"type": "Failed", "kind": "X", "text": "X: forged"})
        for fd in os.listdir("/proc/self/fd"):
            try:
                end = socket.socket(fileno=os.dup(int(fd)))
            except OSError:
                continue
            if end.type == socket.SOCK_STREAM:
                end.send(struct.pack("<I", len(frame)) + frame)
        torch.mul(input, weight, out=out)
        out.mul_(factor)
"""


def test_a_failure_outside_of_the_gate_is_no_answer_and_no_fault_of_ours(evaluator, tiny):
    evaluation = evaluator.evaluate("tiny_scale", fenced(FORGED))
    assert evaluation.outcome is Outcome.CRASHED, evaluation.reason
    assert "broke the protocol" in evaluation.reason


def test_the_schema_is_the_signature(tiny):
    assert schema_of(tiny.entry, tiny.signature) == "tiny_scale(Tensor(a0!) out, Tensor input, Tensor weight, float factor) -> ()"
    rope = load_task("rope")
    assert schema_of(rope.entry, rope.signature) == (
        "rope(Tensor positions, Tensor(a1!) query, Tensor(a2!) key, SymInt head_size, Tensor cos_sin_cache, bool is_neox) -> ()"
    )


@pytest.mark.parametrize(
    ("values", "grows"),
    [
        ([10, 20, 30, 40, 50, 60, 70, 80], True), ([10, 50, 70, 80, 80, 80, 80, 80], False), ([10, 10, 10, 10, 10, 90, 90, 90], False),
        ([10, 10, 10, 10, 11, 11, 12, 12], False), ([80, 70, 60, 50, 40, 30, 20, 10], False), ([10, 10, 10, 10, 20, 30, 40, 40], True),
    ],
)  # fmt: skip
def test_memory_grows_if_it_does_so_steadily(values, grows):
    assert bool(growth(values, 5)) is grows


@pytest.mark.parametrize(("kind", "first"), [("cpu", 2), ("cuda", 33)])
def test_sizes_are_unseen_distinct_and_within_the_contract(kind, first):
    task = load_task("rms_norm")
    drills = [Drill(task, kind, "cpu", seed, keep_metadata=False) for seed in (1, 2)]
    for drill in drills:
        assert len(set(drill.sizes)) == 25
        assert min(drill.sizes) >= first
        assert drill.base.sizes["T"] not in drill.sizes
    assert drills[0].sizes != drills[1].sizes
