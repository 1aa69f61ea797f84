"""Evaluations end to end on a CPU: outcomes, replay, records, faults of ours."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import textwrap
import threading

import msgspec
import pytest

from fastkernels_env import Context, Evaluator, Outcome, read_log
from fastkernels_env.checks import CHECKS
from fastkernels_env.device import DeviceError
from fastkernels_env.task import TaskError
from fastkernels_env.types import Evaluation, Reward, Status

PYTHON = """
    import torch

    def tiny_scale(out, input, weight, factor):
        torch.mul(input, weight, out=out)
        out.mul_(factor)
"""


def python(code=PYTHON):
    return f"```python\n{textwrap.dedent(code).strip()}\n```"


@pytest.fixture
def judge(evaluator, tiny):
    def judge(text=None, **options):
        return evaluator.evaluate("tiny_scale", python() if text is None else text, **options)

    return judge


# -- outcomes ------------------------------------------------------------------------------------------------------------------


def test_an_accepted_submission_has_a_whole_record(judge):
    text = f"Here it is.\n\n{python()}\n\nIt multiplies."
    evaluation = judge(text)
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason
    assert [c.name for c in evaluation.checks] == [spec.name for spec in CHECKS]
    assert all(c.detail for c in evaluation.checks if c.status is Status.NOT_RUN)
    assert evaluation.workloads_right == 1.0
    assert evaluation.text == text
    assert evaluation.code == textwrap.dedent(PYTHON).strip() + "\n"
    assert evaluation.language == "python"
    assert evaluation.speedup.low <= evaluation.speedup.estimate <= evaluation.speedup.high
    (timing,) = evaluation.timings
    assert timing.baselines.keys() == timing.baseline_samples_us.keys() == {"eager"}
    assert len(timing.candidate_samples_us) == len(timing.baseline_samples_us["eager"]) > 0
    assert [(b.name, b.status) for b in evaluation.baselines] == [("eager", "used")]
    assert evaluation.check("public_shapes").detail == "1 of 2: the smoke shape only"
    assert {"build", "smoke", "verify", "profile", "total"} <= set(evaluation.seconds)
    assert evaluation.device.kind == "cpu"
    assert evaluation.device.cores > 0
    assert {"python", "torch"} <= set(evaluation.versions)
    assert evaluation.feedback.startswith("Outcome: accepted.")


@pytest.mark.parametrize(
    ("text", "outcome", "reason"),
    [
        ("", Outcome.REJECTED, "empty"),
        ("I cannot do that.", Outcome.REJECTED, "tiny_scale"),
        ("```python\ndef tiny_scale(out, input): pass\n```", Outcome.REJECTED, "factor"),
        ("```python\ndef tiny_scale(out, input, weight, factor):\n", Outcome.REJECTED, "closed"),
        ("```python\ndef tiny_scale(out, input, weight, factor): return (\n```", Outcome.BUILD_FAILED, "SyntaxError"),
        ("```python\ndef tiny_scale(out, input, weight, factor): pass\n```", Outcome.WRONG, "smoke"),
        ("```python\ndef tiny_scale(out, input, weight, factor): raise KeyError('k')\n```", Outcome.CRASHED, "KeyError"),
    ],
)
def test_outcomes_of_what_never_runs_well(judge, text, outcome, reason):
    evaluation = judge(text)
    assert evaluation.outcome is outcome
    assert reason in evaluation.reason
    assert evaluation.speedup is None
    assert evaluation.timings == []
    assert evaluation.text == text
    assert all(c.detail for c in evaluation.checks if c.status is Status.NOT_RUN)


def only_if(condition):
    return python(f"""
        import torch

        def tiny_scale(out, input, weight, factor):
            torch.mul(input, weight, out=out)
            out.mul_(factor if {condition} else -factor)
    """)


@pytest.mark.parametrize(
    ("condition", "failed"),
    [
        ("not len(input) or float(input.abs().max()) < 15", "public_shapes"),
        ("input.shape[0] == 16", "hidden_shapes"),
        ("float(weight.mean()) != float(weight[0])", None),
    ],
)
def test_what_only_a_loose_test_accepts_is_a_silent_error(judge, condition, failed):
    evaluation = judge(only_if(condition), seed=1)
    if failed is None:
        assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason
    else:
        assert evaluation.outcome is Outcome.SILENT_ERROR, evaluation.reason
        assert evaluation.check("smoke").status is Status.PASSED
        assert evaluation.check(failed).status is Status.FAILED
        assert evaluation.reason.startswith("passes the smoke check, but ")
        assert 0 < evaluation.workloads_right < 1


def test_a_silent_error_is_timed_too(judge):
    """A reward that trusts the smoke check alone must be computable from the record."""
    evaluation = judge(python("""
        import torch

        def tiny_scale(out, input, weight, factor):
            torch.mul(input, weight, out=out)
            out.mul_(factor)
            if input.shape[0] not in (0, 16):
                input[0, 0] += 1
    """))
    assert evaluation.outcome is Outcome.SILENT_ERROR, evaluation.reason
    assert "'input' was modified" in evaluation.reason
    assert evaluation.speedup is not None


# -- seeds ---------------------------------------------------------------------------------------------------------------------


def test_a_seed_replays_shapes_and_values(judge, evaluator):
    shapes = []
    for seed in (7, 7, 8):
        sizes = [c.describe() for c in _cases(evaluator, seed)]
        values = [float(c.args["input"].double().sum()) for c in _cases(evaluator, seed)]
        shapes.append((sizes, values))
    assert shapes[0] == shapes[1]
    assert shapes[0][0] != shapes[2][0]
    assert shapes[0][1] != shapes[2][1]


def _cases(evaluator, seed):
    """The cases that an evaluation with this seed judges."""
    from fastkernels_env.checks import CheckList
    from fastkernels_env.judge.effort import get_effort
    from fastkernels_env.judge.trial import Trial
    from fastkernels_env.registry import load_task

    return Trial(evaluator.open(), load_task("tiny_scale"), seed, get_effort("quick"), CheckList("cpu")).matrix.cases


def test_a_failure_is_replayed_by_its_seed(judge):
    first = judge(only_if("input.shape[0] == 16"))
    again = judge(only_if("input.shape[0] == 16"), seed=first.seed)
    assert first.outcome is again.outcome is Outcome.SILENT_ERROR
    assert again.reason == first.reason
    assert again.check("hidden_shapes").detail == first.check("hidden_shapes").detail


def test_without_a_seed_every_evaluation_draws_its_own(judge):
    assert len({judge("no code").seed for _ in range(5)}) == 5


# -- records -------------------------------------------------------------------------------------------------------------------


def test_context_and_prompt_are_recorded(judge):
    context = Context(run="r1", episode="e2", group="g3", turn=4, policy_step=5)
    evaluation = judge("no code", context=context, prompt_hash="abc")
    assert (evaluation.context, evaluation.prompt_hash) == (context, "abc")
    assert judge("no code").context == Context()


def test_a_record_survives_json(judge):
    for text in (python(), "no code", python("def tiny_scale(out, input, weight, factor): 1 / 0")):
        evaluation = judge(text)
        assert msgspec.json.decode(msgspec.json.encode(evaluation), type=Evaluation) == evaluation


def test_ids_are_unique_and_times_are_utc(judge):
    records = [judge("no code") for _ in range(3)]
    assert len({r.id for r in records}) == 3
    assert all(r.created.endswith("+00:00") for r in records)


class Length:
    """A scorer."""

    def score(self, evaluation):
        return Reward(preset="length", total=float(len(evaluation.text)), parts={"length": 1.0})


class Broken:
    """A scorer that fails."""

    def score(self, evaluation):
        raise LookupError("no reward")


def test_rewards_are_computed_and_recorded(judge):
    evaluation = judge("no code", rewards={"mine": Length()})
    assert evaluation.rewards == {"mine": Reward(preset="length", total=7.0, parts={"length": 1.0})}
    assert judge("no code").rewards == {}


def test_every_evaluation_is_appended_to_the_log(tmp_path, tiny):
    path = tmp_path / "evaluations.jsonl"
    with Evaluator("cpu", effort="quick", log=path) as evaluator:
        first = evaluator.evaluate("tiny_scale", "no code", context=Context(run="a"))
        second = evaluator.evaluate("tiny_scale", "none here either", rewards={"mine": Length()})
        with pytest.raises(LookupError):
            evaluator.evaluate("tiny_scale", "nor here", rewards={"mine": Broken()})
    records = read_log(path)
    assert records[:2] == [first, second]
    assert [r.text for r in records] == ["no code", "none here either", "nor here"]


def test_without_a_log_nothing_is_written(tmp_path, monkeypatch, judge):
    monkeypatch.chdir(tmp_path)
    judge("no code")
    assert list(tmp_path.iterdir()) == []


# -- calls ---------------------------------------------------------------------------------------------------------------------


def test_unknown_efforts_devices_and_tasks_are_refused(evaluator):
    with pytest.raises(ValueError, match="expected effort 'full' or 'quick', got 'thorough'"):
        Evaluator("cpu", effort="thorough")
    with pytest.raises(ValueError, match="got 'thorough'"):
        evaluator.evaluate("rms_norm", "no code", effort="thorough")
    with pytest.raises(DeviceError, match="got 'tpu'"):
        Evaluator("tpu")
    with pytest.raises(TaskError, match="unknown task 'no_such_task'"):
        evaluator.evaluate("no_such_task", "no code")


def test_the_async_twin_gives_the_same_and_leaves_the_loop_free(evaluator, tiny):
    async def both():
        beats = 0

        async def heart():
            nonlocal beats
            while True:
                beats += 1
                await asyncio.sleep(0.001)

        beat = asyncio.create_task(heart())
        evaluations = await asyncio.gather(
            evaluator.evaluate_async("tiny_scale", python(), seed=3, context=Context(run="a")),
            evaluator.evaluate_async("tiny_scale", "no code", effort="quick", prompt_hash="h"),
        )
        beat.cancel()
        return evaluations, beats

    (accepted, rejected), beats = asyncio.run(both())
    assert accepted.outcome is Outcome.ACCEPTED, accepted.reason
    assert (accepted.seed, accepted.context.run) == (3, "a")
    assert rejected.outcome is Outcome.REJECTED
    assert rejected.prompt_hash == "h"
    assert beats > 3


def test_threads_take_turns(evaluator, tiny):
    results = {}

    def work(name, text):
        results[name] = evaluator.evaluate("tiny_scale", text)

    texts = {"right": python(), "wrong": only_if("False"), "none": "no code", "right too": python()}
    threads = [threading.Thread(target=work, args=item) for item in texts.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    outcomes = {name: e.outcome for name, e in results.items()}
    assert outcomes == {"right": Outcome.ACCEPTED, "wrong": Outcome.WRONG, "none": Outcome.REJECTED, "right too": Outcome.ACCEPTED}


def test_closing_twice_and_going_on_afterwards(tiny):
    evaluator = Evaluator("cpu", effort="quick")
    evaluator.close()
    evaluator.close()
    first = evaluator.evaluate("tiny_scale", python())
    assert first.outcome is Outcome.ACCEPTED, first.reason
    evaluator.close()
    evaluator.close()
    assert evaluator.evaluate("tiny_scale", "no code").outcome is Outcome.REJECTED
    evaluator.close()


def test_making_an_evaluator_starts_no_judge_and_imports_no_torch():
    code = "import sys, fastkernels_env; e = fastkernels_env.Evaluator('cpu'); print('torch' in sys.modules); e.close()"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


# -- faults of ours ------------------------------------------------------------------------------------------------------------


STARVED = """
    import os, resource, sys
    from fastkernels_env import Evaluator

    if __name__ == "__main__":
        text = sys.stdin.read()
        with Evaluator("cpu", effort="quick") as evaluator:
            print(evaluator.evaluate("tiny_scale", text).outcome.value)
            soft, hard = resource.getrlimit(resource.{limit})
            resource.setrlimit(resource.{limit}, ({value}, hard))
            starved = evaluator.evaluate("tiny_scale", text)
            print(starved.outcome.value, "|", starved.reason)
            resource.setrlimit(resource.{limit}, (soft, hard))
            print(evaluator.evaluate("tiny_scale", text).outcome.value)
"""


OPEN_FILES = "len(os.listdir('/proc/self/fd'))"


@pytest.mark.sampled("value", take=1)
@pytest.mark.parametrize(
    ("limit", "value"), [("RLIMIT_FSIZE", "4096"), ("RLIMIT_NOFILE", OPEN_FILES), ("RLIMIT_NOFILE", f"{OPEN_FILES} - 6")]
)
def test_a_host_that_denies_memory_or_descriptors_is_a_fault(limit, value, tiny, tiny_root, tmp_path):
    script = tmp_path / "starved.py"
    script.write_text(textwrap.dedent(STARVED).replace("{limit}", limit).replace("{value}", value))
    answer = subprocess.run([sys.executable, script], input=python(), capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr[-3000:]
    before, starved, after = answer.stdout.strip().splitlines()
    assert before == "accepted"
    assert starved.startswith("fault | ")
    assert len(starved) > len("fault | ")
    assert after == "accepted"


def test_no_room_for_temporary_files_is_a_fault(judge, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "not there"))
    evaluation = judge()
    assert evaluation.outcome is Outcome.FAULT
    assert "not there" in evaluation.reason
    assert evaluation.speedup is None
    monkeypatch.undo()


def test_after_a_fault_the_next_evaluation_is_whole(evaluator, tiny):
    assert evaluator.evaluate("tiny_scale", python()).outcome is Outcome.ACCEPTED
