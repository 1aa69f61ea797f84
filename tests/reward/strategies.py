"""Evaluations for tests: arbitrary ones (hypothesis) and one that looks real. Load with `runpy.run_path`."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from fastkernels_env.types import (
    BaselineReport,
    Check,
    Context,
    DeviceInfo,
    Evaluation,
    Evidence,
    Language,
    Outcome,
    Reward,
    Speedup,
    Stage,
    Status,
    Timing,
)

# A loaded machine is no failure: no test here says anything about time.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

text = st.text(max_size=20)
share = st.floats(0, 1)
number = st.floats(allow_nan=False, allow_infinity=False)
odd_number = st.floats()
ratio = st.one_of(st.floats(1e-3, 1e3), st.floats(0.9, 1.1), st.sampled_from([0.0, 1.0]))


def dicts(values):
    return st.dictionaries(text, values, max_size=3)


check_names = st.one_of(text, st.sampled_from(["build", "smoke", "canaries"]))
baseline_names = st.one_of(text, st.sampled_from(["eager", "compile"]))
checks = st.builds(
    Check, name=check_names, stage=st.sampled_from(Stage), status=st.sampled_from(Status), evidence=st.sampled_from(Evidence), detail=text
)
speedups = st.tuples(ratio, ratio, ratio).map(sorted).map(
    lambda ends: Speedup(low=ends[0], estimate=ends[1], high=ends[2], worst=ends[0], worst_workload="w")
)
odd_speedups = st.builds(Speedup, estimate=odd_number, low=odd_number, high=odd_number, worst=odd_number, worst_workload=text)
timings = st.builds(
    Timing, workload=text, count=st.integers(0, 9), candidate_us=number, best_baseline=text,
    baselines=st.dictionaries(baseline_names, number, max_size=3), sealed_added_us=number,
    speed_of_light=st.none() | share, floor_us=st.none() | number, candidate_samples_us=st.lists(number, max_size=3),
    baseline_samples_us=dicts(st.lists(number, max_size=3)),
)
statuses = st.sampled_from(["used", "not_available", "failed", "skipped"])
baselines = st.builds(BaselineReport, name=text, status=statuses, detail=text)
devices = st.builds(DeviceInfo, kind=st.sampled_from(["cpu", "cuda"]), name=text, uuid=text, clocks=dicts(number))
contexts = st.builds(Context, run=text, episode=text, group=text, turn=st.integers(0, 9), policy_step=st.integers(0, 9))
rewards = st.builds(Reward, preset=text, total=st.none() | number, parts=dicts(number))


maybe_speedups = st.none() | speedups


def evaluations(outcomes=tuple(Outcome), *, speedups=maybe_speedups, workloads_right=share):
    """Arbitrary records with every field drawn."""
    return st.builds(
        Evaluation, id=text, created=text, task=text, task_version=st.integers(0, 9), device=devices, effort=text,
        seed=st.integers(0, 2**63 - 1), outcome=st.sampled_from(outcomes), reason=text, checks=st.lists(checks, max_size=6),
        speedup=speedups, baselines=st.lists(baselines, max_size=3), timings=st.lists(timings, max_size=2),
        workloads_right=workloads_right, own_kernel_share=st.none() | share, setup_us=dicts(number), seconds=dicts(number),
        feedback=text, text=text, code=text, language=st.sampled_from(["", *Language]), prompt_hash=text, build_log=text,
        resources=dicts(number), context=contexts, containment=st.lists(text, max_size=2),
        missing_containment=st.lists(text, max_size=2), versions=dicts(text), rewards=dicts(rewards),
    )


def check(name, stage, status, detail="", evidence="judged"):
    return Check(name=name, stage=Stage(stage), status=Status(status), evidence=Evidence(evidence), detail=detail)


def timing(workload, count, candidate_us, baselines, speed_of_light):
    return Timing(
        workload=workload, count=count, candidate_us=candidate_us, baselines=baselines, speed_of_light=speed_of_light,
        best_baseline=min(baselines, key=baselines.get),
    )


def bare(outcome, **fields):
    """The smallest evaluation of that outcome."""
    return Evaluation(
        id="e1", created="2026-11-22T15:00:00Z", task="rms_norm", task_version=1, device=DeviceInfo(kind="cpu", name="Test CPU"),
        effort="full", seed=1, outcome=outcome, reason="", **fields,
    )


def realistic(outcome=Outcome.ACCEPTED, **fields):
    """What an H200 would send back for a good `moe_gemm`, with fields replaced."""
    conflict = outcome is Outcome.STACK_CONFLICT
    values = dict(
        id="0193b2c4", created="2026-11-22T15:00:00Z", task="moe_gemm", task_version=1, effort="full", seed=7712093341,
        device=DeviceInfo(kind="cuda", name="NVIDIA H200", uuid="GPU-5f", memory_bytes=150_000_000_000, cache_bytes=62_914_560),
        outcome=outcome, reason="every check that this device requires passed",
        checks=[
            check("entry", "build", "passed"),
            check("compile", "build", "passed", "1.4 s, 128 registers, no spills"),
            check("smoke", "smoke", "passed", "prefill_8x512, allclose at 1e-2"),
            check("numerics", "verify", "passed", "24 of 24 cases, worst relative RMS error 1.9e-3 of 3.9e-3"),
            check("canaries", "verify", "passed"),
            check("ragged", "verify", "passed", "T drawn from 1 to 6000: 1, 17, 255, 3001"),
            check("cuda_graph", "integrate", "failed" if conflict else "passed", "captured, replayed with new data"),
            check("op_schema", "integrate", "passed", "no undeclared mutation", "reported"),
            check("side_stream", "integrate", "not_run", "needs the integrate gate"),
            check("second_device", "integrate", "not_run", "only one device is visible"),
            check("memory_growth", "integrate", "not_run", "needs the integrate gate"),
            check("timed_outputs", "profile", "passed", "every timed output verified"),
        ],
        speedup=Speedup(estimate=1.31, low=1.27, high=1.36, worst=0.94, worst_workload="decode_b4_hot"),
        baselines=[
            BaselineReport(name="grouped_mm", status="used"),
            BaselineReport(name="triton", status="used"),
            BaselineReport(name="flashinfer", status="not_available", detail="cannot be imported: No module named 'flashinfer'"),
        ],
        timings=[
            timing("prefill_mixtral_4096", 1, 1412.7, {"grouped_mm": 1998.1, "triton": 1871.4}, 0.71),
            timing("decode_qwen3_b64", 48, 38.2, {"grouped_mm": 61.9, "triton": 52.5}, 0.62),
            timing("decode_b4_hot", 48, 9.81, {"grouped_mm": 9.22, "triton": 11.0}, None),
        ],
        workloads_right=1.0, seconds={"build": 1.62, "smoke": 0.21, "verify": 3.04, "integrate": 0.8, "profile": 4.4},
        feedback="Accepted: 1.31x the best baseline.\nMost time is lost in decode_b4_hot, where grouped_mm is faster.",
    )
    return Evaluation(**(values | fields))
