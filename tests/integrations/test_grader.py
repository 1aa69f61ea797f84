import asyncio
import math
import pickle
import subprocess
import sys
import textwrap
import threading

import pytest

from fastkernels_env import Context, Evaluator, load_preset, read_log
from fastkernels_env.integrations.grader import Grader, mean_metrics
from fastkernels_env.task import TaskError
from fastkernels_env.types import Item

pytestmark = pytest.mark.slow
TASK = "tiny_scale"


def items(replies, *names, task=TASK):
    return [Item(task=task, text=replies[name]) for name in names]


def test_scores_come_in_order_with_the_same_metrics_for_every_outcome(grader, replies):
    graded = grader.grade_many_sync(items(replies, "none", "right", "wrong"))
    assert [one.outcome for one in graded] == ["rejected", "accepted", "wrong"]
    assert all(tuple(one.metrics) == grader.metric_names for one in graded)
    for one in graded:
        parts = [value for name, value in one.metrics.items() if name.startswith("reward/") and name != "reward/total"]
        assert one.valid
        assert one.score == one.metrics["reward/total"] == pytest.approx(math.fsum(parts))
        assert one.score == load_preset("production").score(one.evaluation).total
        assert one.metrics[f"outcome/{one.outcome}"] == sum(v for name, v in one.metrics.items() if name.startswith("outcome/")) == 1.0
        assert one.feedback == one.evaluation.feedback != ""
    assert graded[1].metrics["speedup"] > 0 == graded[2].metrics["speedup"]


def test_a_source_that_repeats_is_judged_once(grader, replies):
    first, second = grader.grade_many_sync(items(replies, "right", "right"))
    assert second.evaluation.duplicate_of == first.evaluation.id
    assert second.score == first.score


def test_nothing_to_grade(grader):
    assert grader.grade_many_sync([]) == []
    assert mean_metrics([]) == {}


def test_a_slow_kernel_does_not_hold_up_the_others_and_has_no_score(pool, tiny, replies):
    grader = Grader(evaluator=pool, deadline=8.0)
    texts = [replies["hang"], *(replies["none"] + mark for mark in "!?.")]
    graded = grader.grade_many_sync([Item(task=TASK, text=text) for text in texts])
    assert [one.outcome for one in graded] == ["fault", "rejected", "rejected", "rejected"]
    assert "No verdict within" in graded[0].feedback
    assert (graded[0].score, graded[0].valid, graded[0].metrics["outcome/fault"]) == (None, False, 1.0)
    assert tuple(graded[0].metrics) == grader.metric_names
    means = mean_metrics(graded)
    assert means["outcome/fault"] == 0.25
    assert means["reward/total"] == pytest.approx(sum(one.score for one in graded[1:]) / 3)


def test_a_fault_of_the_judge_has_no_score(grader, broken, replies):
    graded = grader.grade_sync(broken, replies["right"])
    assert (graded.outcome, graded.score, graded.valid) == ("fault", None, False)


def test_several_loops_and_threads_ask_one_grader(grader, replies, later):
    found = {}

    def ask(name):
        found[name] = later(grader.grade(TASK, replies["none"], context=Context(episode=name)))

    threads = [threading.Thread(target=ask, args=(str(number),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: one.evaluation.context.episode for name, one in found.items()} == {str(number): str(number) for number in range(4)}


def test_waiting_inside_a_running_loop(grader, replies, later):
    async def ask():
        return grader.grade_sync(TASK, replies["none"]).outcome, (await grader.grade(TASK, replies["none"])).outcome

    assert later(ask()) == ("rejected", "rejected")


def test_cancelling_takes_a_reply_back(grader, replies, later):
    async def ask():
        both = [asyncio.create_task(grader.grade(TASK, replies["hang"])) for _ in range(2)]  # every judge has one
        await asyncio.sleep(1)
        for task in both:
            task.cancel()
        ended = await asyncio.gather(*both, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in ended)
        return await grader.grade(TASK, replies["none"])

    assert later(ask()).outcome == "rejected"


def test_ids_hash_and_effort_are_recorded(grader, replies):
    evaluation = grader.grade_sync(TASK, replies["none"], context=Context(run="r", group="g"), prompt_hash="abc").evaluation
    assert (evaluation.context, evaluation.prompt_hash, evaluation.effort) == (Context(run="r", group="g"), "abc", "quick")


def test_a_function_of_the_record_as_reward(pool, tiny, replies):
    grader = Grader(evaluator=pool, reward=lambda evaluation: len(evaluation.text))
    graded = grader.grade_sync(TASK, replies["none"])
    assert graded.score == graded.metrics["reward/total"] == len(replies["none"])


def test_a_task_that_is_not_there(grader):
    with pytest.raises(TaskError, match="unknown task 'nope'"):
        grader.grade_sync("nope", "")
    assert grader.grade_sync(TASK, "").outcome == "rejected"


def test_a_confined_task_is_judged_in_another_process(grader, replies):
    graded = grader.grade_sync("tiny_scale[strided]", replies["right"])
    assert (graded.outcome, graded.evaluation.task) == ("accepted", "tiny_scale[strided]")
    assert [timing.workload for timing in graded.evaluation.timings] == ["strided"]


def test_a_copy_has_the_settings_and_judges_of_its_own(tiny, replies, tmp_path):
    log = tmp_path / "log.jsonl"
    grader = pickle.loads(pickle.dumps(Grader(device="cpu", judges=1, reward="correct_only", log=log)))
    assert grader.grade_sync(TASK, replies["none"]).outcome == "rejected"
    grader.close()
    assert grader.grade_sync(TASK, replies["none"]).outcome == "rejected"  # it opens again
    grader.close()
    assert [list(evaluation.rewards) for evaluation in read_log(log)] == [["correct_only"]] * 2


def test_a_given_evaluator_does_not_travel(pool):
    with pytest.raises(TypeError, match="without a given evaluator"):
        pickle.dumps(Grader(evaluator=pool))


def test_bad_settings_are_refused_at_once(pool):
    for settings, message in (
        ({"deadline": 0}, "deadline to be above 0"), ({"effort": "some"}, "expected effort"), ({"judges": 0}, "judges to be a number"),
        ({"evaluator": pool, "log": "other.jsonl"}, "expected no log beside"),
        ({"evaluator": pool, "judges": 1}, "expected no judges beside"),
        ({"reward": "nope"}, "nope"),
    ):
        with pytest.raises(ValueError, match=message):
            Grader(**settings)


def test_an_interpreter_ends_that_never_closes_its_grader(tiny):
    program = """
        import sys
        from fastkernels_env.integrations import grader, trl, verl
        from fastkernels_env.types import Item

        opened = grader.Grader(device="cpu", judges=1)
        assert "torch" not in sys.modules and "trl" not in sys.modules and "verl" not in sys.modules, "imported ahead"
        print(opened.grade_sync("tiny_scale", "").outcome)
        opened._submit([Item(task="tiny_scale", text="once more")])
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "rejected\n", "")


def test_a_grader_leaves_a_given_evaluator_open(pool, tiny, replies):
    Grader(evaluator=pool).close()
    assert isinstance(pool, Evaluator)
    assert pool.evaluate(TASK, replies["none"]).outcome == "rejected"
