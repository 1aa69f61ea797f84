"""Batches: every item gets one answer, whatever happens to judges, callers and other items on the way."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest

from fastkernels_env import Evaluator, read_log
from fastkernels_env.bench.processes import is_confined
from fastkernels_env.evaluator import canary_source
from fastkernels_env.log import LogError
from fastkernels_env.pool.base import JudgeBroken
from fastkernels_env.pool.pool import count_judges
from fastkernels_env.registry import _registered, load_task, register_task
from fastkernels_env.sandbox import tree
from fastkernels_env.task import TaskError
from fastkernels_env.types import Context, Item, Outcome

PROSE = "I would rather not write a kernel today."
FORGETFUL = "```python\ndef rms_norm(out, input, weight, epsilon):\n    pass\n```"
ENDLESS = "```python\nimport time\n\n\ndef rms_norm(out, input, weight, epsilon):\n    time.sleep(60)\n```"


def honest(number=0, prose=""):
    return f"{prose}\n```cpp\n{load_task('rms_norm').seeds()['cpu.cpp']}\n// {number}\n```"


def item(text, **more):
    return Item(task="rms_norm", text=text, **more)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("batch") / "log.jsonl"


@pytest.fixture(scope="module")
def evaluator(log):
    """Two judges; they leave no folder and no process behind."""
    before = set(Path(tempfile.gettempdir()).glob("fastkernels-judge-*"))
    with Evaluator("cpu", effort="quick", log=log, judges=2) as shared:
        yield shared
    assert set(Path(tempfile.gettempdir()).glob("fastkernels-judge-*")) <= before  # all that a judge has lies in its own
    assert not [pid for pid in tree.descendants(os.getpid()) if "fastkernels_env.pool" in Path(f"/proc/{pid}/cmdline").read_text()]


def judge(evaluator, items, **options):
    async def collect():
        return [answer async for answer in evaluator.evaluate_many(items, **options)]

    return asyncio.run(collect())


def test_answers_come_as_they_are_ready_and_all_of_them_are_logged(evaluator, log):
    seen = []
    items = [item(honest()), item(PROSE, context=Context(run="r", turn=3)), item(FORGETFUL)]
    answers = judge(evaluator, items, progress=seen.append)
    assert sorted(answer.index for answer in answers) == [0, 1, 2]
    assert {answer.index: answer.evaluation.outcome for answer in answers} == {
        0: Outcome.ACCEPTED, 1: Outcome.REJECTED, 2: Outcome.WRONG,
    }  # fmt: skip
    assert [answer.index for answer in answers].index(1) < [answer.index for answer in answers].index(0)
    assert all(answer.item is items[answer.index] and answer.evaluation.text == answer.item.text for answer in answers)
    assert next(a.evaluation.context for a in answers if a.index == 1) == Context(run="r", turn=3)
    assert seen[-1].outcomes == {"accepted": 1, "rejected": 1, "wrong": 1}
    assert (seen[-1].done, seen[-1].judging, seen[-1].duplicates) == (3, 0, 0)
    assert {record.id for record in read_log(log)} >= {answer.evaluation.id for answer in answers}


def test_the_same_source_is_judged_once_and_marked(evaluator, log):
    answers = judge(evaluator, [item(honest(1)), item(honest(1, "Once more:")), item(honest(1), seed=7), item(PROSE)], ahead=4)
    first, second, seeded, prose = (a.evaluation for a in sorted(answers, key=lambda a: a.index))
    assert {first.duplicate_of, second.duplicate_of} in ({"", first.id}, {"", second.id})
    assert len({first.id, second.id, seeded.id, prose.id}) == 4
    assert first.timings == second.timings
    assert second.text.startswith("Once more:")
    assert seeded.duplicate_of == ""
    assert seeded.seed == 7
    logged = {record.id: record for record in read_log(log)}
    assert logged[second.id].duplicate_of == second.duplicate_of


def test_no_more_is_asked_for_than_is_judged(evaluator):
    asked, answered = [], []

    async def run():
        async def replies():
            for number in range(5):
                assert len(asked) - len(answered) < 2
                asked.append(number)
                yield item(f"{PROSE} {number}")

        async for answer in evaluator.evaluate_many(replies(), ahead=2):
            answered.append(answer.index)

    asyncio.run(run())
    assert sorted(answered) == [0, 1, 2, 3, 4]


def test_what_is_ready_does_not_wait_for_the_next_item(evaluator):
    """The second item comes only once the first is answered, though two could be judged at a time."""
    async def run():
        answered = asyncio.Event()

        async def replies():
            yield item(f"{PROSE} first")
            await answered.wait()
            yield item(f"{PROSE} second")

        found = []
        async for answer in evaluator.evaluate_many(replies(), ahead=2):
            found.append(answer.index)
            answered.set()
        return found

    assert asyncio.run(asyncio.wait_for(run(), 60)) == [0, 1]


def test_what_the_source_raises_comes_after_the_answers(evaluator):
    answers = []

    def replies():
        yield item(FORGETFUL)
        raise RuntimeError("no more kernels")

    async def run():
        async for answer in evaluator.evaluate_many(replies(), ahead=2):
            answers.append(answer)

    with pytest.raises(RuntimeError, match="no more kernels"):
        asyncio.run(run())
    assert [answer.evaluation.outcome for answer in answers] == [Outcome.WRONG]


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 256 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting takes root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_for_the_log_costs_no_verdict(small_disk):
    """All answers come, the complaint after them; once there is room again the log goes on, and nothing lies about."""
    waste, answers = small_disk / "waste", []
    with contextlib.suppress(OSError):
        waste.write_bytes(b"x" * (1 << 20))

    async def collect(evaluator):
        async for answer in evaluator.evaluate_many([item(PROSE), item(FORGETFUL), item(PROSE)]):
            answers.append(answer)

    with Evaluator("cpu", effort="quick", log=small_disk / "log.jsonl", judges=1) as evaluator:
        with pytest.raises(LogError, match=r"No space left on device.*2 more evaluations of this batch could not be logged") as told:
            asyncio.run(collect(evaluator))
        assert sorted((a.index, a.evaluation.outcome.value) for a in answers) == [(0, "rejected"), (1, "wrong"), (2, "rejected")]
        saved = [told.value.saved, *told.value.more]
        assert all(str(path) in str(told.value) for path in saved)
        assert sorted(read_log(path)[0].id for path in saved) == sorted(answer.evaluation.id for answer in answers)
        for path in saved:
            path.unlink()
        waste.unlink()
        again = judge(evaluator, [item(PROSE), item(FORGETFUL)])
        assert sorted(record.id for record in read_log(evaluator.log)) == sorted(answer.evaluation.id for answer in again)
        assert [path.name for path in small_disk.iterdir()] == ["log.jsonl"]


@pytest.mark.parametrize("option", [{"ahead": 0}, {"ahead": -1}, {"deadline": 0}, {"deadline": -2.0}, {"deadline": float("nan")}])
def test_a_bad_option_is_refused_at_once(evaluator, option):
    with pytest.raises(ValueError, match=f"expected {next(iter(option))} to be above 0, or None, got"):
        evaluator.evaluate_many([], **option)


def test_an_item_without_a_task_is_told_after_the_others_are_answered(evaluator):
    answers = []

    async def run():
        items = [item(FORGETFUL), Item(task="no_such_task", text=PROSE), item(PROSE)]
        async for answer in evaluator.evaluate_many(items, ahead=3):
            answers.append(answer)

    with pytest.raises(TaskError, match="unknown task 'no_such_task'"):
        asyncio.run(run())
    assert [answer.evaluation.outcome for answer in answers] == [Outcome.WRONG]


def test_what_is_not_judged_in_time_is_given_up_and_costs_nothing(evaluator, log):
    items = [item(ENDLESS, deadline=2.0), item(FORGETFUL), item(f"{FORGETFUL}\n")]
    answers = {answer.index: answer.evaluation for answer in judge(evaluator, items)}
    assert answers[0].outcome is Outcome.FAULT
    assert answers[0].reason == "no verdict within the 2 s that the caller allowed"
    assert answers[1].outcome is answers[2].outcome is Outcome.WRONG
    assert sum(record.text == ENDLESS for record in read_log(log)) == 1


def test_leaving_early_takes_back_what_is_not_judged(evaluator, log):
    async def run():
        endless = [item(ENDLESS.replace("60", f"{60 + number}")) for number in range(4)]
        batch = evaluator.evaluate_many([item(PROSE), *endless], ahead=5)
        async for answer in batch:
            first = answer
            break
        await batch.aclose()
        return first

    start = time.monotonic()
    assert asyncio.run(run()).index == 0
    assert evaluator.evaluate("rms_norm", FORGETFUL).outcome is Outcome.WRONG
    assert time.monotonic() - start < 50, "nobody waits for what was taken back"
    assert not list(log.parent.glob(f"{log.name}.pending/*"))


def at_work(evaluator):
    """Process ids of judges that have a submission's worker."""
    return [pid for pid in evaluator._pool.processes() if len(tree.descendants(pid)) > 3]


def test_a_judge_that_dies_loses_no_verdict(evaluator):
    killed = []

    def kill_one():
        while not (found := at_work(evaluator)):
            time.sleep(0.01)
        killed.append(found[0])
        os.kill(found[0], signal.SIGKILL)

    evaluator.close()
    killer = threading.Thread(target=kill_one)
    killer.start()
    answers = judge(evaluator, [item(honest(20 + number)) for number in range(3)])
    killer.join()
    assert killed
    assert [answer.evaluation.outcome for answer in answers] == [Outcome.ACCEPTED] * 3
    told = [answer.evaluation.faults for answer in answers if answer.evaluation.faults]
    assert told in ([], [["the judge's own process was killed while it judged this reply"]])


def kill_over(evaluator, mark, most, killed):
    """Kill judges while they are at work on a reply with this mark; what else was being judged then goes to `killed`."""
    seen = set()
    while len(killed) < most:
        for seat in evaluator._pool._seats:
            order, pid = seat.order, seat.pid
            if order is not None and pid is not None and pid not in seen and mark in order.text and len(tree.descendants(pid)) > 3:
                seen.add(pid)
                killed.append([other.order for other in evaluator._pool._seats if other is not seat and other.order is not None])
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def judge_beside(evaluator, text, mark, most):
    """Judge a reply over which so many judges are killed, others beside it: its record, theirs, and what ran beside it at each kill."""
    killed, others = [], []
    killer = threading.Thread(target=kill_over, args=(evaluator, mark, most, killed), daemon=True)
    killer.start()
    future = evaluator.submit("rms_norm", text)
    while not future.done():
        others.append(evaluator.evaluate("rms_norm", f"{FORGETFUL}\n{len(others)}"))
    return future.result(), others, killed


DIED = "the judge's own process was killed while it judged this reply"
ALONE = "then it was judged with no other evaluation beside it"


@pytest.mark.sampled(take=2)
def test_a_reply_over_which_two_judges_died_by_chance_is_judged_alone(evaluator):
    text = honest(71)
    evaluation, others, killed = judge_beside(evaluator, text, b"71", 2)
    assert len(killed) == 2
    assert evaluation.outcome is Outcome.ACCEPTED
    assert evaluation.faults == [DIED, DIED, ALONE]
    assert {other.outcome for other in others} == {Outcome.WRONG}


@pytest.mark.sampled(take=2)
def test_a_reply_over_which_judges_die_alone_too_crashed_if_the_device_is_healthy(evaluator):
    text = ENDLESS.replace("60", "61")
    evaluation, others, killed = judge_beside(evaluator, text, b"61", 3)
    assert killed[2] == [], "nothing else was judged meanwhile"
    assert evaluation.outcome is Outcome.CRASHED
    assert evaluation.reason.startswith("it broke the judge alone too, and a baseline on the same inputs did not")
    assert evaluation.faults == [DIED, DIED, ALONE]
    assert {other.outcome for other in others} == {Outcome.WRONG}
    again, _, killed = judge_beside(evaluator, text, b"61", 1)
    assert killed == [[]], "a reply that is known for it is judged alone at once"
    assert again.outcome is Outcome.CRASHED
    assert again.faults == []


@pytest.mark.sampled(take=2)
@pytest.mark.parametrize(("kills", "outcome"), [(1, Outcome.CRASHED), (2, Outcome.FAULT)])
def test_a_baseline_whose_judge_died_once_is_judged_again(evaluator, kills, outcome):
    """It decides whether the reply is to blame: one death of it may be chance, after two nobody knows whether the device is in order."""
    text = ENDLESS.replace("60", f"{kills}63")
    baselines: list[list[object]] = []
    mark = canary_source(load_task("rms_norm"), "cpu").encode()[-60:]
    killer = threading.Thread(target=kill_over, args=(evaluator, mark, kills, baselines), daemon=True)
    killer.start()
    evaluation, _, killed = judge_beside(evaluator, text, f"{kills}63".encode(), 3)
    killer.join(10)
    assert (len(killed), len(baselines)) == (3, kills)
    assert evaluation.outcome is outcome, evaluation.reason


@pytest.mark.sampled(take=2)
def test_a_baseline_whose_worker_was_killed_is_judged_again(evaluator):
    text = ENDLESS.replace("60", "65")
    mark = canary_source(load_task("rms_norm"), "cpu").encode()[-60:]
    workers: list[int] = []

    def kill_worker():
        while not workers:
            for seat in evaluator._pool._seats:
                order, pid = seat.order, seat.pid
                if order is not None and pid is not None and mark in order.text:
                    workers.extend([below for below in tree.descendants(pid) if is_confined(below)][1:2])  # below its init
            time.sleep(0.01)
        os.kill(workers[0], signal.SIGKILL)

    thread = threading.Thread(target=kill_worker, daemon=True)
    thread.start()
    evaluation, _, killed = judge_beside(evaluator, text, b"65", 3)
    thread.join(10)
    assert (len(killed), len(workers)) == (3, 1)
    assert evaluation.outcome is Outcome.CRASHED, evaluation.reason


def test_an_interrupt_that_came_too_late_costs_the_next_reply_nothing(evaluator):
    """It was meant for the reply before, and the judge is at work on another one when it arrives."""
    future = evaluator.submit("rms_norm", ENDLESS.replace("60", "3"))
    while not (found := at_work(evaluator)):
        time.sleep(0.01)
    os.kill(found[0], signal.SIGINT)
    assert future.result().outcome in (Outcome.WRONG, Outcome.TIMED_OUT)
    assert future.result().faults == []


def test_a_task_that_only_this_process_has_learned_of_is_judged(evaluator, tiny):
    assert evaluator.evaluate("tiny_scale", tiny.seeds()["cpu.cpp"]).outcome is Outcome.ACCEPTED


def test_a_judge_that_cannot_judge_says_why(evaluator, tmp_path, task_files):
    folder = task_files(tmp_path / "vanishing_scale")
    register_task(folder)
    try:
        seed = load_task("vanishing_scale").seeds()["cpu.cpp"]
        (folder / "task.py").rename(folder / "gone.py")
        with pytest.raises(JudgeBroken, match=r"TaskError: expected a task folder with a task\.py"):
            evaluator.evaluate("vanishing_scale", seed)
    finally:
        del _registered["vanishing_scale"]
    assert evaluator.evaluate("rms_norm", FORGETFUL).outcome is Outcome.WRONG


def test_a_host_on_which_no_judge_starts_is_a_fault_of_ours(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with Evaluator("cpu", effort="quick", judges=1) as helpless:
        evaluation = helpless.evaluate("rms_norm", FORGETFUL)
    assert evaluation.outcome is Outcome.FAULT
    assert evaluation.reason.startswith("no judge could be started: ")


def test_as_many_judges_as_have_been_tried():
    assert 1 <= count_judges("auto", "cpu") <= max(len(os.sched_getaffinity(0)), 1)
    assert count_judges("auto", "cuda") == 1
    assert count_judges(None, "cpu") == 0


def test_one_process_judges_batches_too():
    with Evaluator("cpu", effort="quick") as alone:
        answers = judge(alone, [item(PROSE), item(PROSE), item(FORGETFUL)])
    assert sorted((a.index, a.evaluation.outcome.value, bool(a.evaluation.duplicate_of)) for a in answers) == [
        (0, "rejected", False), (1, "rejected", True), (2, "wrong", False),
    ]  # fmt: skip


@pytest.mark.parametrize("judges", [0, -1, True, "many", 2.0])
def test_a_number_of_judges_that_is_none_is_refused(judges):
    with pytest.raises(ValueError, match=r"expected judges to be a number of at least 1, 'auto' or None"):
        Evaluator("cpu", judges=judges)
