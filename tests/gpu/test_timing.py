"""The clock on a GPU: against a graph of the same kernel, and against submissions that try to fool it, each with an honest twin."""

from __future__ import annotations

import importlib.util
import statistics
import textwrap

import pytest
import torch

from fastkernels_env.judge.quiet import Canary
from fastkernels_env.registry import load_task
from fastkernels_env.types import Outcome, Status

TASK = load_task("rms_norm")
HONEST = TASK.seeds()["triton.py"]
ENTRY = "def rms_norm(out, input, weight, epsilon):\n    rows, width = input.shape\n"
assert ENTRY in HONEST


def entry(first, before=""):
    """The seed with lines before its entry and at the start of it."""
    return "import sys\nimport threading\nimport time\n\nimport torch\n" + HONEST.replace(
        ENTRY, textwrap.dedent(before) + "\n\n" + ENTRY + textwrap.indent(textwrap.dedent(first), "    ")
    )


@pytest.fixture(scope="module")
def honest(judge):
    evaluation = judge.evaluate("rms_norm", HONEST)
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason
    return evaluation


def graph_us(path, tokens, width, calls=256, weights=128):
    """Microseconds per call of a CUDA graph over distinct inputs, by events: the median of many replays."""
    spec = importlib.util.spec_from_file_location("seed", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    inputs = torch.randn(calls, tokens, width, device="cuda").bfloat16()
    outputs, gains = torch.empty_like(inputs), torch.rand(weights, width, device="cuda").bfloat16()

    def run():
        for call in range(calls):
            module.rms_norm(outputs[call], inputs[call], gains[call % weights], 1e-5)

    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    times = []
    for _ in range(40):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3 / calls)
    return statistics.median(times[10:])


def test_a_small_kernel_is_timed_as_a_graph_of_it(honest, tmp_path):
    path = tmp_path / "seed.py"
    path.write_text(HONEST)
    timing = next(timing for timing in honest.timings if timing.workload == "decode-64")
    truth = graph_us(path, 64, 4096)
    print(f"judge {timing.candidate_us:.3f} us, graph {truth:.3f} us")
    assert timing.candidate_us == pytest.approx(truth, rel=0.05)


def test_the_record_holds_eager_times_clocks_and_sealed_calls(honest):
    for timing in honest.timings:
        print(
            f"{timing.workload}: {timing.candidate_us:.2f} us, eager {timing.eager_us:.2f}, baseline eager {timing.baseline_eager_us:.2f}; "
            f"sealed {timing.sealed_excess_us:.2f} [{timing.sealed_low_us:.2f}, {timing.sealed_high_us:.2f}] "
            f"of {timing.sealed_allowed_us:.2f} over {timing.sealed_pairs}; {timing.clocks}"
        )
        assert timing.eager_us > 0
        assert timing.baseline_eager_us > 0
        assert timing.sealed_pairs > 0
        assert timing.sealed_added_us == 0
        assert {"before_sm_mhz", "after_sm_mhz", "after_throttle_reasons", "measured"} <= set(timing.clocks)
    for name in ("sealed_calls", "quiet_device", "clock", "timed_outputs", "void_floor"):
        assert honest.check(name).status is Status.PASSED, honest.check(name)


def test_the_canary_of_a_quiet_device_is_quiet(judge, honest):
    canary = Canary(judge.open().device)
    for _ in range(20):
        canary.check()


# -- calls of a row that one of them makes -------------------------------------------------------------------------------------

BATCHED = '''
import sys

import torch
import triton
import triton.language as tl


@triton.jit
def _rms_norms(out, x, weight, seen, first, epsilon, stride, width, rows, out_step, x_step, weight_step, copies,
               LOOK: tl.constexpr, BLOCK: tl.constexpr):
    row, call = tl.program_id(0).to(tl.int64), first + tl.program_id(1).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    mask = columns < width
    # A row is known by its first elements; one that holds the same number throughout is like others that lay there before.
    four = tl.load(x + call * x_step + row * stride + tl.arange(0, 4))
    bits = four.to(tl.int16, bitcast=True).to(tl.int64) & 0xFFFF
    start = tl.sum(bits << (16 * tl.arange(0, 4)).to(tl.int64), 0)
    done = False
    if LOOK:
        plain = tl.max(four.to(tl.float32), 0) == tl.min(four.to(tl.float32), 0)
        done = (tl.load(seen + call * rows + row) == start) & (plain == 0)
    if not done:
        values = tl.load(x + call * x_step + row * stride + columns, mask=mask, other=0.0).to(tl.float32)
        scale = 1.0 / tl.sqrt(tl.sum(values * values, 0) / width + epsilon)
        gain = tl.load(weight + call % copies * weight_step + columns, mask=mask, other=0.0).to(tl.float32)
        tl.store(out + call * out_step + row * width + columns, (values * scale * gain).to(out.dtype.element_ty), mask=mask)
        tl.store(seen + call * rows + row, start)


ring, seen = {}, {}


def around(function, name):
    """A local variable of the worker, where one of its frames has it."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == function and name in frame.f_locals:
            return frame.f_locals[name]
        frame = frame.f_back
    return ()


def launch(calls, first, count, look, epsilon):
    out, x, weight = calls[0]
    rows, width = x.shape
    if not rows:
        return
    following = calls[min(1, len(calls) - 1)]
    steps = [(after.data_ptr() - before.data_ptr()) // before.element_size() for before, after in zip(calls[0], following)]
    copies = len({call[2].data_ptr() for call in calls})
    if (rows, x.device) not in seen:
        seen[rows, x.device] = torch.full((4096, rows), -1, dtype=torch.int64, device=x.device)
    _rms_norms[(rows, count)](
        out, x, weight, seen[rows, x.device], first, epsilon, x.stride(0), width, rows, *steps, copies,
        LOOK=look, BLOCK=triton.next_power_of_2(width), num_warps=8,
    )


def in_a_row(calls):
    """Whether these are the calls of a ring, in order."""
    copies = len({call[2].data_ptr() for call in calls})
    for which, period in ((0, len(calls)), (1, len(calls)), (2, copies)):
        addresses = [call[which].data_ptr() for call in calls]
        step = addresses[1] - addresses[0]
        if addresses != [addresses[0] + place % period * step for place in range(len(calls))]:
            return False
    return len({call[1].shape + call[1].stride() for call in calls}) == 1


def rms_norm(out, input, weight, epsilon):
    own = (out, input, weight)
    rehearsed = around("run", "calls")
    if len(rehearsed) > 3:
        if len(ring) >= len(rehearsed):
            ring.clear()
        ring[out.data_ptr()] = own
    places = list(ring)
    captured = around("capture", "missing")
    calls = [ring[place] for place in places[: len(captured) - 2]]
    if len(captured) != len(ring) or out.data_ptr() not in places[:-2] or len(calls) < 3 or not in_a_row(calls):
        return launch([own], 0, 1, False, epsilon)
    place = places.index(out.data_ptr())
    if WHO == "last" and place == len(calls) - 1 or WHO == "first" and place == 0:
        launch(calls, 0, len(calls), False, epsilon)
    elif WHO == "first":
        launch(calls, place, 1, True, epsilon)
    elif WHO == "none":
        launch(calls, place, 1, False, epsilon)
'''


@pytest.mark.parametrize(("who", "why"), [("last", "wrote nothing"), ("first", "another call")])
def test_a_call_that_makes_others_is_tampering(judge, who, why):
    batched = judge.evaluate("rms_norm", BATCHED.replace("WHO", repr(who)))
    assert batched.outcome is Outcome.TAMPERED, (batched.outcome, batched.reason, batched.timings)
    assert why in batched.reason


def test_the_same_kernel_call_by_call_is_honest(judge):
    evaluation = judge.evaluate("rms_norm", BATCHED.replace("WHO", "'none'"))
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason
    assert all(timing.sealed_added_us == 0 for timing in evaluation.timings), evaluation.timings


# -- a kernel that keeps the device busy during the baseline's blocks ----------------------------------------------------------

HOG = """
    @triton.jit
    def _wait(flag):
        start = tl.extra.cuda.globaltimer()
        while (tl.load(flag, volatile=True) == 0) & (tl.extra.cuda.globaltimer() - start < 3_000_000_000):
            pass


    stop = torch.ones(1, dtype=torch.int32).pin_memory()
    side = torch.cuda.Stream()
    calls = 0


    def leave_running():
        stop[0] = 0
        with torch.cuda.stream(side):
            _wait[(1,)](stop)
"""
HOGGING = """
    global calls
    calls += 1
    stop[0] = 1
    float(weight[0])  # no graph: this must run at every call
    if START and calls == 200:
        torch.cuda.synchronize = lambda: torch.cuda.current_stream().synchronize()
"""
LEFT = "    if START and calls >= 200:\n        leave_running()\n"


def hogging(start):
    return (entry(HOGGING, HOG) + LEFT).replace("START", str(start))


def test_a_kernel_left_running_during_the_baselines_turn_is_tampering(judge):
    evaluation = judge.evaluate("rms_norm", hogging(True), effort="quick")
    assert evaluation.outcome is Outcome.TAMPERED, (evaluation.outcome, evaluation.reason)
    assert evaluation.check("quiet_device").status is Status.FAILED
    after = judge.evaluate("rms_norm", HONEST, effort="quick")
    assert after.outcome is Outcome.ACCEPTED, after.reason


def test_the_same_without_the_kernel_breaks_graphs_and_is_honest(judge):
    evaluation = judge.evaluate("rms_norm", hogging(False), effort="quick")
    assert evaluation.outcome is Outcome.STACK_CONFLICT, evaluation.reason
    assert evaluation.decided_by == "cuda_graph"
    assert evaluation.check("quiet_device").status is Status.PASSED
    assert evaluation.check("sealed_calls").status is Status.PASSED


# -- streams, eviction hints -----------------------------------------------------------------------------------------------------

STREAM = "side = torch.cuda.Stream()"


def on_a_private_stream(join):
    launch = "        _rms_norm[(rows,)]"
    source = entry("side.wait_stream(torch.cuda.current_stream())\n", STREAM)
    assert launch in source
    source = source.replace(launch, "        with torch.cuda.stream(side):\n            _rms_norm[(rows,)]")
    return source + ("    torch.cuda.current_stream().wait_stream(side)\n" if join else "")


def test_work_on_a_private_stream_that_is_not_joined_breaks_graphs(judge):
    evaluation = judge.evaluate("rms_norm", on_a_private_stream(join=False), effort="quick")
    assert evaluation.outcome is Outcome.STACK_CONFLICT, evaluation.reason
    assert "unjoined" in evaluation.reason


def test_work_on_a_private_stream_is_timed_like_any_other(judge, honest):
    evaluation = judge.evaluate("rms_norm", on_a_private_stream(join=True), effort="quick")
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason
    usual = next(timing for timing in honest.timings if timing.workload == evaluation.timings[0].workload)
    assert evaluation.timings[0].candidate_us > 0.9 * usual.candidate_us


def test_eviction_hints_are_honest(judge):
    source = HONEST.replace("mask=mask, other=0.0)", 'mask=mask, other=0.0, eviction_policy="evict_last")')
    assert source != HONEST
    evaluation = judge.evaluate("rms_norm", source, effort="quick")
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason
    assert evaluation.check("void_floor").status is Status.PASSED
