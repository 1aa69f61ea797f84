"""What is faster by a little is measured again, in fresh processes of both sides."""

from __future__ import annotations

import pytest

from fastkernels_env import Evaluator, Outcome, load_task
from fastkernels_env.judge import contest


@pytest.fixture
def opponents(tmp_path, task_files, monkeypatch):
    """Judges the seed against a baseline that is slower on any host; that baseline's processes before and afterwards."""
    slow = "import time\n" + task_files.texts["eager"].replace("torch.mul", "time.sleep(0.02)\n        torch.mul")
    task_files(tmp_path / "slow_scale", eager=slow.replace("import time\n", "\n    import time\n", 1))
    monkeypatch.setenv("FASTKERNELS_ENV_PATH", str(tmp_path))
    task = load_task("slow_scale")

    def judge():
        with Evaluator("cpu", effort="quick") as evaluator:
            pool = evaluator.open()
            before = pool.contestants(task, False)["eager"].session.members
            evaluation = evaluator.evaluate("slow_scale", f"```cpp\n{task.seeds()['cpu.cpp']}```")
            assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason
            assert evaluation.speedup.low > 1
            assert [timing.best_baseline for timing in evaluation.timings] == ["eager"]
            assert [report.status for report in evaluation.baselines] == ["used"]
            return before, pool.contestants(task, False)["eager"].session.members

    return judge


def test_a_large_gain_is_measured_once(opponents):
    before, after = opponents()
    assert before == after


def test_a_small_gain_is_measured_again_against_a_baseline_that_was_started_anew(opponents, monkeypatch):
    monkeypatch.setattr(contest, "SMALL_GAIN", 1e9)
    before, after = opponents()
    assert set(before).isdisjoint(after)
