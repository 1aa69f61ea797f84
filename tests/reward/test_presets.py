"""Published rewards as presets: values worked out by hand from each source's formula, and what such a reward cannot see."""

import math
import runpy
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastkernels_env import reward
from fastkernels_env.types import Outcome, Speedup, Timing

strategies = runpy.run_path(str(Path(__file__).parent / "strategies.py"))
evaluations, odd_number, bare, check = (strategies[name] for name in ("evaluations", "odd_number", "bare", "check"))
NAIVE = ["correct_only", "cuda_agent", "drkernel", "kernrl", "kevin", "log_speedup"]
OURS = ["gentle", "production"]
JUDGED = [outcome for outcome in Outcome if outcome is not Outcome.FAULT]
PRESETS = {name: reward.load_preset(name) for name in reward.preset_names()}

BUILT = [check("build", "build", "passed")]
RAN_WRONG = [*BUILT, check("smoke", "smoke", "failed")]
RIGHT = [*BUILT, check("smoke", "smoke", "passed")]
NOTHING = bare(Outcome.REJECTED)
NOT_BUILT = bare(Outcome.BUILD_FAILED, checks=[check("build", "build", "failed")])
CRASHED = bare(Outcome.CRASHED, checks=[*BUILT, check("smoke", "smoke", "not_run")])
WRONG = bare(Outcome.WRONG, checks=RAN_WRONG)
UNTIMED = bare(Outcome.UNMEASURED, checks=RIGHT)


def timed(outcome=Outcome.ACCEPTED, checks=RIGHT, share=None, **speedups):
    """A record whose candidate takes 10 us and whose baselines take that many times as long."""
    times = {name: 10.0 * times for name, times in speedups.items()}
    timing = Timing(workload="w", count=3, candidate_us=10.0, baselines=times, best_baseline="", speed_of_light=None)
    return bare(outcome, checks=checks, timings=[timing], own_kernel_share=share)


@pytest.mark.parametrize(
    ("preset", "evaluation", "total"),
    [
        ("correct_only", NOT_BUILT, 0),
        ("correct_only", WRONG, 0),
        ("correct_only", UNTIMED, 1),
        ("correct_only", timed(eager=0.1), 1),
        # 0.3 + s; the speedups are those of the trajectory in the source: 0.6, 4.27, wrong, failed, 9.61
        ("kevin", timed(eager=0.6), 0.9),
        ("kevin", timed(eager=4.27), 4.57),
        ("kevin", WRONG, 0),
        ("kevin", CRASHED, 0),
        ("kevin", timed(eager=9.61), 9.91),
        ("kevin", UNTIMED, 0.3),
        ("kevin", timed(other=4.0), 0.3),
        ("kevin", timed(eager=1e9), 1000.3),
        # 0.5 + 0.5 * min(s, 3) + 0.5 * share
        ("drkernel", NOTHING, 0),
        ("drkernel", WRONG, 0),
        ("drkernel", timed(eager=0.6), 0.8),
        ("drkernel", timed(eager=2.0, share=0.5), 1.75),
        ("drkernel", timed(eager=4.0, share=0.8), 2.4),
        ("drkernel", timed(eager=2.0, share=0.0), 0),
        ("drkernel", UNTIMED, 0.5),
        # 5 % of eager's time saved is s > 1 / 0.95 = 1.0526
        ("cuda_agent", NOTHING, -1),
        ("cuda_agent", CRASHED, -1),
        ("cuda_agent", WRONG, -1),
        ("cuda_agent", UNTIMED, 1),
        ("cuda_agent", timed(eager=1.052, compile=9.0), 1),
        ("cuda_agent", timed(eager=1.053, compile=1.052), 2),
        ("cuda_agent", timed(eager=2.0), 2),
        ("cuda_agent", timed(eager=1.053, compile=1.053), 3),
        ("kernrl", NOTHING, -0.5),
        ("kernrl", NOT_BUILT, -0.5),
        ("kernrl", CRASHED, -0.25),
        ("kernrl", WRONG, -0.25),
        # 0.5 * (0.6 - 1)
        ("kernrl", timed(eager=0.6), -0.2),
        ("kernrl", timed(eager=1.0), 0),
        ("kernrl", timed(eager=1.5), 0.5),
        ("kernrl", timed(eager=3.5), 2),
        ("kernrl", UNTIMED, 0),
        ("log_speedup", NOT_BUILT, -0.2),
        ("log_speedup", CRASHED, -0.2),
        ("log_speedup", WRONG, 0),
        ("log_speedup", UNTIMED, 1),
        # the source's own examples: 0.41, 0.69 and 1.10 on top, 0.25 off
        ("log_speedup", timed(eager=1.5), 1.4054651),
        ("log_speedup", timed(eager=2.0), 1.6931472),
        ("log_speedup", timed(eager=3.0), 2.0986123),
        ("log_speedup", timed(eager=0.5), 0.75),
    ],
)
def test_worked_values(preset, evaluation, total):
    assert PRESETS[preset].score(evaluation).total == pytest.approx(total, abs=1e-7)


def test_there_is_a_worked_value_or_a_proved_order_for_every_preset():
    assert sorted([*NAIVE, *OURS]) == list(PRESETS)


CONFLICT = [*RIGHT, check("cuda_graph", "integrate", "failed")]
SILENT = [*RIGHT, check("hidden_shapes", "verify", "failed")]


@pytest.mark.parametrize("name", NAIVE)
def test_a_published_reward_pays_what_it_cannot_see(name):
    right = PRESETS[name].score(timed(eager=2.0, compile=2.0)).total
    for outcome, checks in (
        (Outcome.SILENT_ERROR, SILENT), (Outcome.STACK_CONFLICT, CONFLICT), (Outcome.TAMPERED, RIGHT), (Outcome.CRASHED, RIGHT)
    ):
        assert PRESETS[name].score(timed(outcome, checks, eager=2.0, compile=2.0)).total == right > 0


@pytest.mark.parametrize("name", OURS)
def test_ours_pay_it_less(name):
    interval = Speedup(estimate=2.0, low=1.9, high=2.1, worst=2.0, worst_workload="w")
    right = msgspec.structs.replace(timed(eager=2.0), speedup=interval)
    for outcome, checks in ((Outcome.SILENT_ERROR, SILENT), (Outcome.STACK_CONFLICT, CONFLICT), (Outcome.TAMPERED, RIGHT)):
        unsound = msgspec.structs.replace(right, outcome=outcome, checks=checks)
        assert PRESETS[name].score(unsound).total < PRESETS[name].score(right).total - 0.5


@given(evaluations(tuple(JUDGED)), st.sampled_from(JUDGED), st.floats(0, 1))
def test_a_published_reward_depends_on_the_unit_test_and_the_times_alone(evaluation, outcome, share):
    seen = [check for check in evaluation.checks if check.name in ("build", "smoke")]
    other = msgspec.structs.replace(evaluation, outcome=outcome, workloads_right=share, checks=seen, speedup=None)
    for name in NAIVE:
        assert PRESETS[name].score(other) == PRESETS[name].score(evaluation)


@st.composite
def odd_records(draw):
    """Records that a common sandbox believes, with any numbers for times."""
    timing = st.builds(
        Timing, workload=st.just("w"), count=st.integers(-1, 9), candidate_us=odd_number, best_baseline=st.just(""),
        baselines=st.dictionaries(st.sampled_from(["eager", "compile"]), odd_number), speed_of_light=st.none(), sealed_added_us=odd_number,
    )
    evaluation = draw(evaluations(tuple(JUDGED)))
    share = draw(st.none() | odd_number.filter(lambda x: not math.isnan(x)))
    return msgspec.structs.replace(evaluation, timings=draw(st.lists(timing, max_size=3)), checks=RIGHT, own_kernel_share=share)


@given(st.one_of(evaluations(), odd_records()))
def test_no_total_leaves_the_bounds(evaluation):
    for name, preset in PRESETS.items():
        scored = preset.score(evaluation)
        if evaluation.outcome is Outcome.FAULT:
            assert scored.total is None
            continue
        assert preset.bounds[0] <= scored.total <= preset.bounds[1]
        assert set(scored.parts) == set(preset.part_names)
        if name == "kernrl":
            assert scored.total >= -0.5
        if name == "log_speedup":
            assert scored.total >= -0.2


def test_a_speedup_is_weighted_by_count_and_leaves_out_what_sealed_calls_added():
    def timing(count, candidate_us, sealed_added_us=0.0, **baselines):
        return Timing(
            workload="w", count=count, candidate_us=candidate_us, baselines=baselines, best_baseline="eager", speed_of_light=None,
            sealed_added_us=sealed_added_us,
        )

    # (1 * 30 + 2 * 5) / (1 * 10 + 2 * (7 - 2))
    both = [timing(1, 10.0, eager=30.0, compile=15.0), timing(2, 7.0, 2.0, eager=5.0)]
    record = bare(Outcome.ACCEPTED, checks=RIGHT, timings=both)
    assert reward.naive.speedup_over(record, baseline="eager") == 2.0
    # only the first workload has both
    assert reward.naive.speedup_over(record, baseline="compile") == 1.5
    assert reward.naive.speedup_over(record, baseline="flashinfer") == 0.0
    assert reward.naive.speedup_over(msgspec.structs.replace(record, checks=RAN_WRONG), baseline="eager") == 0.0


@pytest.mark.parametrize(("share", "checks", "paid"), [(0.25, RIGHT, 0.25), (None, RIGHT, 0.0), (7.0, RIGHT, 1.0), (0.25, RAN_WRONG, 0.0)])
def test_share_of_own_kernels(share, checks, paid):
    assert reward.naive.own_kernels(bare(Outcome.ACCEPTED, checks=checks, own_kernel_share=share)) == paid


def test_scoring_imports_no_torch():
    code = (
        "import sys\n"
        "from fastkernels_env.reward import load_preset, preset_names\n"
        "from fastkernels_env.types import DeviceInfo, Evaluation, Outcome\n"
        "cpu = DeviceInfo(kind='cpu', name='x')\n"
        "record = Evaluation(id='', created='', task='', task_version=1, device=cpu, effort='', seed=1, outcome=Outcome.WRONG, reason='')\n"
        "assert all(load_preset(name).score(record).total is not None for name in preset_names())\n"
        "print([name for name in ('torch', 'numpy', 'gymnasium', 'ray') if name in sys.modules])\n"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "torch" not in printed
