"""Records that differ from a real one in one thing."""

import math
import runpy
from pathlib import Path

import pytest
from hypothesis import given

from fastkernels_env.analysis.variants import as_honest_parity, as_loud_failure, at_interval_end
from fastkernels_env.reward import Grade, grade_of, load_preset, preset_names
from fastkernels_env.types import Outcome, Status

records = runpy.run_path(str(Path(__file__).parent / "records.py"))
realistic, bare, evaluations, timed = (records[name] for name in ("realistic", "bare", "evaluations", "timed"))
UNSOUND = records["UNSOUND"]


def test_at_an_end_of_the_interval_kernel_and_speedup_move_together():
    record = realistic(speedup=timed(1.0, 2.0, 4.0))
    slow, fast = at_interval_end(record, "low"), at_interval_end(record, "high")
    assert (slow.speedup.low, slow.speedup.estimate, slow.speedup.high) == (0.5, 1.0, 2.0)
    assert (fast.speedup.low, fast.speedup.estimate, fast.speedup.high) == (2.0, 4.0, 8.0)
    for before, later, sooner in zip(record.timings, slow.timings, fast.timings, strict=True):
        assert later.candidate_us == pytest.approx(2 * before.candidate_us)
        assert sooner.candidate_us == pytest.approx(before.candidate_us / 2)
        assert later.baselines == sooner.baselines == before.baselines
    assert (slow.outcome, slow.checks, slow.text) == (record.outcome, record.checks, record.text)


@pytest.mark.parametrize("ends", [(0.0, 1.0, 2.0), (1.0, 2.0, math.inf), (math.nan, 1.0, 2.0), (1.0, math.nan, 2.0), (3.0, 2.0, 4.0)])
def test_without_a_usable_interval_nothing_moves(ends):
    assert at_interval_end(realistic(speedup=timed(*ends)), "low") is None
    assert at_interval_end(realistic(speedup=None), "low") is None


@given(evaluations(UNSOUND))
def test_honest_parity_is_right_and_at_parity(record):
    honest = as_honest_parity(record)
    assert grade_of(honest) is Grade.PARITY
    assert honest.workloads_right == 1
    assert honest.check("build").status is honest.check("smoke").status is Status.PASSED
    assert not any(check.status is Status.FAILED for check in honest.checks)
    for before, after in zip(record.timings, honest.timings, strict=True):
        if before.best_baseline in before.baselines:
            assert after.candidate_us == before.baselines[before.best_baseline]


@given(evaluations(UNSOUND))
def test_loud_failure_is_wrong_and_untimed(record):
    loud = as_loud_failure(record)
    assert grade_of(loud) is Grade.WRONG
    assert (loud.check("build").status, loud.check("smoke").status) == (Status.PASSED, Status.FAILED)
    assert (loud.speedup, loud.timings, loud.workloads_right) == (None, [], 0)


@given(evaluations(UNSOUND))
def test_production_never_pays_them_more(record):
    production = load_preset("production")
    total = production.score(record).total
    assert total < production.score(as_honest_parity(record)).total
    if record.outcome is not Outcome.STACK_CONFLICT:
        assert total < production.score(as_loud_failure(record)).total


@pytest.mark.parametrize("name", [name for name in preset_names() if name not in ("production", "gentle")])
def test_a_cheat_that_was_caught_before_the_loose_test_is_paid_by_nobody(name):
    preset, cheat = load_preset(name), bare(Outcome.TAMPERED, own_kernel_share=0.0)
    assert preset.score(cheat).total < preset.score(as_honest_parity(cheat)).total


def test_what_was_not_timed_gets_no_speed():
    honest = as_honest_parity(bare(Outcome.SILENT_ERROR))
    assert (honest.outcome, honest.speedup, honest.timings) == (Outcome.ACCEPTED, None, [])
