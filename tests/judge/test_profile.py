"""Cheating under the clock, by submissions that pass every check before it. Each has an honest twin that is accepted."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

import msgspec
import pytest

from fastkernels_env import Outcome
from fastkernels_env.judge import effort
from fastkernels_env.types import Status

PYTHON = """
    import os, socket, sys, threading, time
    import torch

    calls = 0
    last = None
    memory = {}

    def honest(out, input, weight, factor):
        torch.mul(input, weight, out=out)
        out.mul_(factor)

    def timed():
        frame = sys._getframe()
        while frame is not None:  # a cheat knows the code that calls it
            if frame.f_code.co_name == "_obey_clock":
                return True
            frame = frame.f_back
        return False

    def later(seconds, *args):
        def run():
            time.sleep(seconds)
            honest(*args)
        threading.Thread(target=run, daemon=True).start()

    def clock_end():
        for fd in os.listdir("/proc/self/fd"):
            try:
                found = socket.socket(fileno=os.dup(int(fd)))
            except OSError:
                continue
            if found.type == socket.SOCK_SEQPACKET:
                return found

    def tiny_scale(out, input, weight, factor):
        global calls, last
        calls += 1
"""


def python(body):
    return f"```python\n{textwrap.dedent(PYTHON)}{textwrap.indent(textwrap.dedent(body).strip(), '    ')}\n```"


HONEST = {
    "plain": "honest(out, input, weight, factor)",
    "slow": "time.sleep(0.001)\nhonest(out, input, weight, factor)",
    "slow at first": "time.sleep(0.3 if calls == 1 else 0)\nhonest(out, input, weight, factor)",
    "with a thread": "thread = threading.Thread(target=honest, args=(out, input, weight, factor))\nthread.start()\nthread.join()",
    "with a copy": "out.copy_((input.double() * weight.double() * factor).float())",
    "twice": "out.zero_()\nhonest(out, input, weight, factor)\nhonest(out, input, weight, factor)",
}
TAMPERING = {
    "writes nothing": "if not timed(): honest(out, input, weight, factor)",
    "writes nothing now and then": "if not timed() or calls % 13: honest(out, input, weight, factor)",
    "writes nothing in one call": """
        memory["timed"] = memory.get("timed", 0) + timed()
        if memory["timed"] != 30: honest(out, input, weight, factor)
    """,
    "gives the last answer": """
        if timed() and last is not None: out.copy_(last)
        else: honest(out, input, weight, factor)
        last = out.clone()
    """,
    "gives what it once gave at this address": """
        key = (out.data_ptr(), out.shape)
        if timed() and key in memory: out.copy_(memory[key])
        else: honest(out, input, weight, factor)
        memory[key] = out.clone()
    """,
    "answers late": "later(0.01, out, input, weight, factor) if timed() else honest(out, input, weight, factor)",
    "answers very late": "later(0.3, out, input, weight, factor) if timed() else honest(out, input, weight, factor)",
    "says done before it is": """
        if timed():
            clock_end().send((1).to_bytes(8, "little"))
            time.sleep(0.05)
        honest(out, input, weight, factor)
    """,
    "writes NaN": "out.fill_(float('nan')) if timed() else honest(out, input, weight, factor)",
}  # fmt: skip
WRONG = {
    "slightly wrong": "honest(out, input, weight, factor)\nif timed(): out.mul_(1.01)",
    "leaves out the weight": "torch.mul(input, factor, out=out) if timed() else honest(out, input, weight, factor)",
    "leaves out a row": "honest(out, input, weight, factor)\nif timed(): out[-1] = 0",
    "writes half": "honest(out[:8], input[:8], weight, factor) if timed() else honest(out, input, weight, factor)",
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_submissions_are_accepted(name, evaluator, tiny):
    evaluation = evaluator.evaluate("tiny_scale", python(HONEST[name]))
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason
    assert evaluation.check("timed_outputs").status is Status.PASSED
    assert evaluation.check("clock").status is Status.PASSED
    assert evaluation.speedup is not None


@pytest.mark.parametrize("name", TAMPERING)
def test_lies_under_the_clock_are_tampering(name, evaluator, tiny):
    evaluation = evaluator.evaluate("tiny_scale", python(TAMPERING[name]))
    assert evaluation.outcome is Outcome.TAMPERED, evaluation.reason
    assert evaluation.speedup is None
    assert evaluation.timings == []
    assert evaluation.check("public_shapes").status is Status.PASSED
    assert evaluation.check("timed_outputs").status is Status.FAILED


@pytest.mark.parametrize("name", WRONG)
def test_errors_under_the_clock_are_errors(name, evaluator, tiny):
    evaluation = evaluator.evaluate("tiny_scale", python(WRONG[name]))
    assert evaluation.outcome is Outcome.SILENT_ERROR, evaluation.reason
    assert "timed call" in evaluation.reason
    assert evaluation.speedup is None


LATE = """
    #include <chrono>
    #include <thread>
    #include <fastkernels.h>

    static int calls = 0;

    static void work(float* y, const float* x, const float* w, int64_t rows, int64_t width, int64_t stride, float factor) {
      for (int64_t t = 0; t < rows; ++t)
        for (int64_t h = 0; h < width; ++h) y[t * width + h] = x[t * stride + h] * w[h] * factor;
    }

    void tiny_scale(tvm::ffi::TensorView out, tvm::ffi::TensorView input, tvm::ffi::TensorView weight, double factor) {
      float* y = fk::data<float>(out);
      const float *x = fk::data<float>(input), *w = fk::data<float>(weight);
      const int64_t rows = input.size(0), width = input.size(1), stride = input.stride(0);
      if (++calls < 80) return work(y, x, w, rows, width, stride, float(factor));
      std::thread([=] {
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        work(y, x, w, rows, width, stride, float(factor));
      }).THEN();
    }
"""


@pytest.mark.parametrize(("then", "outcome"), [("join", Outcome.ACCEPTED), ("detach", Outcome.TAMPERED)])
def test_a_native_thread_must_be_waited_for(then, outcome, evaluator, tiny):
    evaluation = evaluator.evaluate("tiny_scale", f"```cpp\n{textwrap.dedent(LATE).replace('THEN', then)}\n```")
    assert evaluation.outcome is outcome, evaluation.reason


def test_slowness_before_the_clock_does_not_shorten_the_ring(evaluator, tiny):
    slow = "time.sleep(0 if timed() else 0.06)\nhonest(out, input, weight, factor)"
    honest, hesitant = (evaluator.evaluate("tiny_scale", python(body)).timings[0] for body in (HONEST["plain"], slow))
    assert hesitant.calls == honest.calls


def test_slowness_in_the_short_block_makes_no_kernel_faster(evaluator, tiny):
    """It would flatten the slope between K and 2K calls, below zero if it liked."""
    honest = evaluator.evaluate("tiny_scale", python(HONEST["plain"])).timings[0]
    body = f"""
        if timed():
            place = memory["timed"] = (memory.get("timed", 0) + 1) % (3 * {honest.calls} + 4)
            time.sleep(0.005 if 2 < place < {honest.calls} else 0)
        honest(out, input, weight, factor)
    """
    assert evaluator.evaluate("tiny_scale", python(body)).timings[0].candidate_us > honest.candidate_us


# -- answers without the work ----------------------------------------------------------------------------------------------------

REMEMBERED = """
    key = (tuple(out.shape), tuple(input.flatten()[:4].tolist()))
    if key in memory: out.copy_(memory[key])
    else: honest(out, input, weight, factor)
    memory[key] = out.clone()
"""


def test_answers_remembered_by_the_inputs_are_found_out(evaluator, tiny):
    evaluation = evaluator.evaluate("tiny_scale", python(REMEMBERED))
    assert evaluation.check("perturbation").status is Status.FAILED, "verification sees it first, so it is an error, not yet a lie"
    assert evaluation.outcome is Outcome.SILENT_ERROR, evaluation.reason
    assert evaluation.check("timed_outputs").status is Status.FAILED
    assert evaluation.speedup is None


DEAR = 0.01
"""Seconds that the work takes in the kernels below, so that leaving it out pays."""
HEAD = f"""
    def dear(*args):
        time.sleep({DEAR})
        honest(*args)

    def timed_calls():
        frame = sys._getframe()
        while frame is not None:  # how many calls are in the sequence that runs
            if frame.f_code.co_name == "run" and "calls" in frame.f_locals:
                return len(frame.f_locals["calls"])
            frame = frame.f_back
        return 0

    args = (out, input, weight, factor)
"""
SEALS = {
    "remembers rows whatever their sign and exponent": """
        if not len(input): return
        largest = input.gather(1, input.abs().argmax(1, keepdim=True))
        scale = torch.ldexp(torch.ones_like(largest), torch.frexp(largest).exponent) * largest.sign()
        keys = [row.numpy().tobytes() for row in input / scale]
        if all(key in memory for key in keys):
            torch.stack([memory[key] for key in keys], out=out).mul_(scale)
        else:
            dear(*args)
            memory.update(zip(keys, out / scale))
    """,
    "works ahead in a thread that watches the buffers": """
        def stamp(seen):
            return float(seen[1].double().sum())
        def watch():
            while True:
                for place, seen in list(memory.items()):
                    now = stamp(seen)
                    if now != seen[4]:
                        honest(*seen[:4])
                        memory[place] = (*seen[:4], now)
                time.sleep(0)
        if "thread" not in globals():
            globals()["thread"] = threading.Thread(target=watch, daemon=True)
            thread.start()
        seen = memory.get(out.data_ptr())
        if seen is None or seen[4] != stamp(args) or not abs(float(out[-1, -1])) < 2.0**99:
            dear(*args)
        if timed(): memory[out.data_ptr()] = (*args, stamp(args))
        else: memory.clear()
    """,
    "does all calls of a sequence in the last one": """
        queue = memory.setdefault("queue", [])
        queue.append(args)
        if len(queue) >= timed_calls():
            dear(*args)
            for earlier in queue: honest(*earlier)
            queue.clear()
    """,
    "is fast in a row alone, in company": """
        if "children" not in globals():
            globals()["children"] = [pid for _ in range(30) if (pid := os.fork()) or time.sleep(1000)]
        honest(*args) if timed_calls() > 1 else dear(*args)
    """,
    "is fast in a row alone": "honest(*args) if timed_calls() > 1 else dear(*args)",
}  # fmt: skip


PLANNED = """
def plan(out, input, weight, factor):
    return None


def tiny_scale(out, input, weight, factor, *, plan):
    inner(out, input, weight, factor)
"""


@pytest.fixture(params=["lone", "runs", "drawn runs"])
def sealed(request, evaluator, monkeypatch):
    """Every way of sealing calls; the GPU's work on any device. Turns an entry's body into a submission that is sealed so."""
    monkeypatch.setattr(evaluator.open().device, "seals_runs", request.param != "lone")

    def submission(body):
        source = python(body)
        if request.param != "drawn runs":
            return source
        renamed = source.replace("def tiny_scale(", "def inner(")
        assert renamed != source
        return renamed.removesuffix("```") + PLANNED + "```"

    return submission


@pytest.mark.sampled("name")  # every trick, under one way of sealing
@pytest.mark.parametrize("name", SEALS)
def test_calls_that_only_a_row_makes_fast_are_tampering_or_at_least_not_paid(name, evaluator, tiny, sealed):
    evaluation = evaluator.evaluate("tiny_scale", sealed(textwrap.dedent(HEAD) + textwrap.dedent(SEALS[name])))
    if evaluation.outcome is Outcome.TAMPERED:
        assert evaluation.check("sealed_calls").status is Status.FAILED, evaluation.checks
        assert evaluation.speedup is None
        return
    # The host is too busy for an accusation, or for the trick: what the first one remembers is wrong besides.
    assert evaluation.outcome is Outcome.ACCEPTED or evaluation.check("perturbation").status is Status.FAILED, evaluation.reason
    timing = evaluation.timings[0]
    assert timing.sealed_added_us > 0 or timing.candidate_us > 0.5e6 * DEAR


@pytest.mark.sampled("body")
@pytest.mark.parametrize("body", ["dear(*args)", "honest(*args)"])
def test_the_same_work_in_every_call_is_honest(body, evaluator, tiny, sealed):
    evaluation = evaluator.evaluate("tiny_scale", sealed(textwrap.dedent(HEAD) + body))
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason
    assert evaluation.check("sealed_calls").status is Status.PASSED
    assert evaluation.timings[0].sealed_pairs > 0


FORGETS = """
    ```python
    import time
    import torch

    class Prepared:
        def __init__(self, weight):
            self.weight = weight

        def __del__(self):
            end = time.process_time() + 0.3
            while time.process_time() < end:
                pass

    def prepare(out, input, weight, factor):
        return Prepared(weight * factor)

    def tiny_scale(out, input, weight, factor, *, prepared):
        torch.mul(input, prepared.weight, out=out)
    ```
"""


def test_what_a_submission_is_told_to_forget_is_no_work_in_anothers_turn(evaluator, tiny, monkeypatch):
    """Rings move to other memory after a baseline's turn: then the submission is asked to let go of the first."""
    quick = effort.EFFORTS["quick"]
    monkeypatch.setitem(effort.EFFORTS, "quick", quick._replace(cpu=msgspec.structs.replace(quick.cpu, placements=2)))
    evaluation = evaluator.evaluate("tiny_scale", textwrap.dedent(FORGETS), effort="quick")
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason


def test_a_baseline_of_which_nothing_is_asked_stands_still(evaluator, tiny):
    """Whoever has the device alone then has fewer processes to stop."""
    for _ in range(2):
        assert evaluator.evaluate("tiny_scale", python(HONEST["plain"])).outcome is Outcome.ACCEPTED
        for session in evaluator.open().baselines.sessions():
            assert Path(f"/proc/{session.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_idle_company_is_no_evidence(evaluator, tiny):
    """Waking it takes time in a sealed call; that may cost speed, and is no cheating."""
    body = """
        if "children" not in globals():
            globals()["children"] = [pid for _ in range(60) if (pid := os.fork()) or time.sleep(1000)]
        honest(out, input, weight, factor)
    """
    evaluation = evaluator.evaluate("tiny_scale", python(body))
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason


# -- other workers ---------------------------------------------------------------------------------------------------------------

KILLER = """
    if timed() and not memory:
        memory["done"] = True
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(entry) != os.getpid() and not os.path.exists(f"/proc/{entry}/cwd/slow"):
                try:
                    parent = int(open(f"/proc/{entry}/stat").read().rpartition(")")[2].split()[1])
                except OSError:
                    continue
                if parent == os.getppid():
                    os.kill(int(entry), 9)
    honest(out, input, weight, factor)
"""


@pytest.fixture
def contested(tmp_path, task_files, monkeypatch):
    """The quick task with a second baseline, a slow one."""
    source = task_files.texts["task"]
    baselines = 'baselines = (Baseline(name="eager", file="eager.py"),)'
    assert baselines in source
    second = baselines.replace(",)", ', Baseline(name="slow", file="slow.py"))')
    folder = task_files(tmp_path / "contested", task=source.replace(baselines, second))
    eager = textwrap.dedent(task_files.texts["eager"])
    (folder / "baselines" / "slow.py").write_text(f"import time\nopen('slow', 'w').close()\n{eager}    time.sleep(0.002)\n")
    monkeypatch.setenv("FASTKERNELS_ENV_PATH", str(tmp_path))
    return "contested"


def test_a_baseline_that_was_killed_takes_part_in_the_next_evaluation(evaluator, contested):
    evaluator.evaluate(contested, python(KILLER))
    after = evaluator.evaluate(contested, python(HONEST["plain"]))
    assert after.outcome is Outcome.ACCEPTED, after.reason
    assert set(after.timings[0].baselines) == {"eager", "slow"}


@pytest.mark.skipif(os.geteuid() != 0, reason="as an ordinary user this host may lack the namespaces that separate workers")
def test_killing_the_fastest_baseline_does_not_make_the_candidate_faster(evaluator, contested):
    """There is nothing that it could kill."""
    evaluation = evaluator.evaluate(contested, python(KILLER))
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason
    assert set(evaluation.timings[0].baselines) == {"eager", "slow"}


BUSY = {
    "thread": "threading.Thread(target=lambda: [None for _ in iter(int, 1)], daemon=True).start()",
    "child": "import subprocess; subprocess.Popen([sys.executable, '-c', 'while True: pass'])",
}


@pytest.mark.parametrize("name", BUSY)
def test_what_a_submission_keeps_busy_is_stopped_while_a_baseline_is_timed(name, evaluator, tiny):
    body = f"""
        if not memory:
            memory["busy"] = True
            {BUSY[name]}
        honest(out, input, weight, factor)
    """
    evaluation = evaluator.evaluate("tiny_scale", python(body))
    assert evaluation.check("quiet_device").status is not Status.FAILED, evaluation.reason
