"""Faults of ours: no reward, a second attempt where it can help, and never counted against the policy, unless the source is to blame."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from fastkernels_env import Evaluator, Outcome, load_preset, read_log
from fastkernels_env.task import TaskError

RIGHT = """```python
import torch

def tiny_scale(out, input, weight, factor):
    torch.mul(input, weight, out=out)
    out.mul_(factor)
```"""
HANGING = RIGHT.replace("import torch", "import time").replace("torch.mul(input, weight, out=out)", "time.sleep(60)")


@pytest.fixture
def broken(task_files, tmp_path, monkeypatch):
    """A task like the quick one whose oracle does something first; ``COUNT`` there is a file that counts its calls."""

    def make(oracle="", **changed):
        count = tmp_path / "calls"
        count.write_text("")
        text = changed.pop("task", task_files.texts["task"])
        start = "        def oracle(self, args):\n"
        assert start in text
        lines = [f"import pathlib; calls = pathlib.Path({str(count)!r})", "calls.open('a').write('x')", *oracle.strip().splitlines()]
        text = text.replace(start, start + "".join(f"            {line}\n" for line in lines))
        name = f"broken_{len(list(tmp_path.iterdir()))}"
        task_files(tmp_path / name, task=text, **changed)
        monkeypatch.setenv("FASTKERNELS_ENV_PATH", str(tmp_path))
        return name

    return make


OUT_OF_MEMORY = "torch.empty(1 << 50)"


def unpaid(evaluation):
    return load_preset("production").score(evaluation).total is None


def test_a_reference_that_runs_out_of_memory_once_is_tried_again(broken, evaluator):
    evaluation = evaluator.evaluate(broken(f"if calls.stat().st_size == 3: {OUT_OF_MEMORY}"), RIGHT)
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason
    (fault,) = evaluation.faults
    assert "ran out of memory" in fault


def test_a_reference_that_always_runs_out_of_memory_is_a_fault(broken, evaluator):
    evaluation = evaluator.evaluate(broken(OUT_OF_MEMORY), RIGHT)
    assert evaluation.outcome is Outcome.FAULT
    assert "ran out of memory" in evaluation.reason
    assert len(evaluation.faults) == 1
    assert unpaid(evaluation)


def test_two_faults_on_one_source_while_a_baseline_passes_are_a_crash(broken, evaluator):
    """Two attempts fault at their first oracle; the third run of the stages is the baseline's."""
    evaluation = evaluator.evaluate(broken(f"if calls.stat().st_size <= 2: {OUT_OF_MEMORY}"), RIGHT)
    assert evaluation.outcome is Outcome.CRASHED
    assert "broke the judge twice" in evaluation.reason
    assert "ran out of memory" in evaluation.reason
    assert len(evaluation.faults) == 1
    assert not unpaid(evaluation)


def test_a_broken_task_is_a_fault_that_is_not_tried_again(broken, evaluator):
    evaluation = evaluator.evaluate(broken("raise KeyError('no oracle')"), RIGHT)
    assert evaluation.outcome is Outcome.FAULT
    assert "no oracle" in evaluation.reason
    assert evaluation.faults == []
    assert unpaid(evaluation)


@pytest.mark.parametrize(("first", "profiled"), [(4, False), (40, True)])
def test_where_no_baseline_agrees_with_the_oracle_the_task_is_to_blame(broken, evaluator, first, profiled):
    """An entry that makes no sense, in verification or under the clock, must not be held against whoever is judged on it."""
    task = broken(f"args = {{**args, 'input': args['input'] * 2}} if calls.stat().st_size >= {first} else args")
    evaluation = evaluator.evaluate(task, RIGHT)
    assert evaluation.outcome is Outcome.FAULT
    assert f"task {task!r} is broken on " in evaluation.reason
    assert "no baseline agrees with the oracle: out: 100.00% of " in evaluation.reason
    assert ("profile" in evaluation.seconds) is profiled
    assert evaluation.faults == []
    assert unpaid(evaluation)


def test_what_a_baseline_answers_is_held_against_the_submission(broken, evaluator):
    counted = RIGHT.replace("def tiny", "calls = 0\n\n\ndef tiny")
    sometimes = counted.replace("    torch.mul", "    global calls\n    calls += 1\n    torch.mul")
    doubled = sometimes.replace("    out.mul_(factor)", "    out.mul_(factor if calls < 60 else 2 * factor)")
    assert evaluator.evaluate(broken(), sometimes).outcome is Outcome.ACCEPTED
    evaluation = evaluator.evaluate(broken(), doubled)
    assert evaluation.outcome is Outcome.SILENT_ERROR
    assert evaluation.decided_by == "timed_outputs"


def test_a_missing_baseline_is_a_fault_that_is_not_tried_again(broken, evaluator, task_files):
    plain = 'Baseline(name="eager", file="eager.py")'
    assert plain in task_files.texts["task"]
    needy = task_files.texts["task"].replace(plain, plain.replace(")", ', requires="no_such_package_anywhere")'))
    evaluation = evaluator.evaluate(broken(task=needy), RIGHT)
    assert evaluation.outcome is Outcome.FAULT
    assert "eager: not_available the package 'no_such_package_anywhere' is not installed" in evaluation.reason
    assert evaluation.faults == []
    assert unpaid(evaluation)


def test_a_baseline_that_fails_is_a_fault_after_a_second_attempt(broken, evaluator, task_files):
    evaluation = evaluator.evaluate(broken(eager=task_files.texts["eager"] + "        raise OSError('not today')\n"), RIGHT)
    assert evaluation.outcome is Outcome.FAULT
    assert "not today" in evaluation.reason
    assert len(evaluation.faults) == 1
    assert unpaid(evaluation)


def test_after_every_fault_the_next_evaluation_is_whole(evaluator, tiny):
    evaluation = evaluator.evaluate("tiny_scale", RIGHT)
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason
    assert evaluation.faults == []


# -- a judge that is killed ------------------------------------------------------------------------------------------------------


JUDGE = """
    import sys
    from fastkernels_env import Context, Evaluator

    if __name__ == "__main__":
        evaluator = Evaluator("cpu", effort="quick", log=sys.argv[1])
        evaluator.evaluate("tiny_scale", sys.stdin.read(), seed=11, context=Context(run="r", turn=2))
"""


@pytest.fixture
def kill_judge(tiny, tmp_path):
    """Starts a process that judges a reply and kills it while it does."""
    script, log = tmp_path / "judge.py", tmp_path / "runs" / "log.jsonl"
    script.write_text(textwrap.dedent(JUDGE))

    def kill(text):
        earlier = set(log.parent.glob("log.jsonl.pending/*.json"))
        process = subprocess.Popen([sys.executable, script, log], stdin=subprocess.PIPE, text=True, start_new_session=True)
        process.stdin.write(text)
        process.stdin.close()
        deadline = time.monotonic() + 60
        while not set(log.parent.glob("log.jsonl.pending/*.json")) - earlier:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        return log

    return kill


def test_a_killed_judge_loses_nothing(kill_judge):
    log = kill_judge(HANGING)
    assert not log.exists()  # nobody could write it
    with Evaluator("cpu", effort="quick", log=log) as evaluator:
        evaluator.evaluate("tiny_scale", "no code")
        evaluator.evaluate("tiny_scale", "no code either")
    lost, *others = read_log(log)
    assert lost.outcome is Outcome.FAULT
    assert "killed" in lost.reason
    assert (lost.task, lost.text, lost.seed, lost.context.run, lost.context.turn) == ("tiny_scale", HANGING, 11, "r", 2)
    assert unpaid(lost)
    assert [record.outcome for record in others] == [Outcome.REJECTED] * 2


def test_a_reply_over_which_two_judges_died_has_crashed(kill_judge):
    kill_judge(HANGING)
    log = kill_judge(HANGING)
    with Evaluator("cpu", effort="quick", log=log) as evaluator:
        evaluator.evaluate("tiny_scale", "no code")
    assert [record.outcome for record in read_log(log)] == [Outcome.FAULT, Outcome.CRASHED, Outcome.REJECTED]
    assert not unpaid(read_log(log)[1])


def test_what_is_being_judged_elsewhere_is_not_lost(tiny, tmp_path):
    from fastkernels_env.journal import Entry, Journal
    from fastkernels_env.types import Context

    entry = Entry(task="tiny_scale", text="x", seed=1, effort="quick", context=Context(), prompt_hash="")
    journal = Journal(tmp_path / "log.jsonl")
    with journal.hold(entry):
        assert len(list((tmp_path / "log.jsonl.pending").glob("*.json"))) == 1
        assert Journal(tmp_path / "log.jsonl").take_lost() == []
    assert journal.take_lost() == []
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_task_leaves_no_entry(tmp_path, evaluator):
    with Evaluator("cpu", log=tmp_path / "log.jsonl") as other, pytest.raises(TaskError):
        other.evaluate("no_such_task", RIGHT)
    assert list(tmp_path.iterdir()) == []
