"""The examples, run as a user runs them, and the judged grammar that comes with them."""

import importlib
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastkernels_env.log import append_record, read_log
from fastkernels_env.registry import load_task
from fastkernels_env.reward import load_preset, preset_names
from fastkernels_env.submission import extract
from fastkernels_env.types import Language, Outcome, Status

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
TAKEN_APART = (Outcome.STACK_CONFLICT, Outcome.SILENT_ERROR, Outcome.TAMPERED)


@pytest.fixture(scope="module")
def modules():
    """A function that imports a file of the examples, as they import each other."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        yield importlib.import_module
    finally:
        sys.path.remove(str(EXAMPLES))


@pytest.fixture(scope="module")
def grammar(modules):
    return modules("grammar")


@pytest.fixture(scope="module")
def bandit(modules):
    return modules("train_bandit")


def run(*arguments, status=0):
    """Standard output of an example, or standard error where it must fail."""
    command = [sys.executable, *map(str, (EXAMPLES / arguments[0], *arguments[1:]))]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == status, ended.stderr
    return ended.stderr if status else ended.stdout


def loudly(program):
    """The outcome of a program that every test sees to be bad; None where it takes more."""
    loop, _, sums, result = program
    if (loop, result) == ("scalar", "stream"):
        return Outcome.BUILD_FAILED
    return Outcome.WRONG if (loop, sums) == ("tiles", "double") else None


def expected(program):
    """The outcomes that the library's judge may give a program."""
    loop, threads, sums, result = program
    if outcome := loudly(program):
        return (outcome,)
    if result == "kept":
        return TAKEN_APART
    if loop == "tiles" or sums == "fixed":
        return (Outcome.SILENT_ERROR,)
    return (Outcome.STACK_CONFLICT,) if threads == "throttled" else (Outcome.ACCEPTED,)


def test_every_program_is_a_reply_that_holds_the_entry(grammar):
    task, codes = load_task(grammar.TASK), set()
    for program in grammar.programs():
        submission = extract(grammar.reply(program), task, "cpu")
        assert submission.language is Language.CPP
        assert submission.arguments == ("out", "input", "weight", "epsilon")
        codes.add(submission.code)
    assert len(codes) == len(grammar.programs()) <= 200
    assert grammar.SEED in grammar.programs()


def test_programs_have_names(grammar):
    for program in grammar.programs():
        assert grammar.parse(grammar.name_of(program)) == program
    for name in ("", "scalar", "scalar|serial|float|store|more", "store|float|serial|scalar", "scalar|many|float|store"):
        with pytest.raises(ValueError, match="expected"):
            grammar.parse(name)


@pytest.mark.parametrize("judge", ["LOG", "USUAL_LOG"])
def test_the_committed_logs_hold_every_program_once(grammar, judge):
    records = read_log(getattr(grammar, judge))
    assert [grammar.parse(record.context.episode) for record in records] == grammar.programs()
    assert {(record.context.group, record.context.run) for record in records} == {(grammar.TASK, "grammar")}
    codes = {program: extract(grammar.reply(program), load_task(grammar.TASK), "cpu").code for program in grammar.programs()}
    assert [record.code for record in records] == list(codes.values()), "the grammar has changed since it was judged"


def test_the_judge_tells_every_kind_of_program(grammar):
    odd = {grammar.name_of(p): r.outcome.value for p, r in grammar.load(grammar.LOG).items() if r.outcome not in expected(p)}
    assert not odd


def test_the_usual_way_sees_what_is_loud_and_nothing_else(grammar):
    records = grammar.load(grammar.USUAL_LOG)
    odd = {grammar.name_of(p): r.outcome.value for p, r in records.items() if r.outcome is not (loudly(p) or Outcome.ACCEPTED)}
    assert not odd
    for record in records.values():
        assert (record.speedup is not None) == (record.outcome is Outcome.ACCEPTED) == (record.check("smoke").status is Status.PASSED)


@pytest.mark.parametrize("judge", ["LOG", "USUAL_LOG"])
def test_every_reward_scores_every_record(grammar, judge):
    presets = [load_preset(name) for name in preset_names()]
    for record in read_log(getattr(grammar, judge)):
        assert all(preset.score(record).total is not None for preset in presets)


def test_the_table_names_the_best_and_the_seed(grammar):
    told = run("grammar.py", "table")
    assert told.count(f"{len(grammar.programs())} of {len(grammar.programs())} programs") == 2
    assert grammar.name_of(grammar.SEED) in told


def test_the_commands_refuse_what_they_cannot_use(tmp_path):
    assert "expected one of serial, parallel" in run("grammar.py", "show", "scalar|many|float|store", status=2)
    assert "cannot be read" in run("grammar.py", "table", tmp_path / "missing.jsonl", status=2)
    assert "holds none" in run("train_bandit.py", "--log", (tmp_path / "empty.jsonl").open("w").name, status=2)


def test_a_log_goes_on_where_it_was_left(grammar, tmp_path):
    packed, judged = tmp_path / "grammar.jsonl.xz", []
    broken = [program for program in grammar.programs() if loudly(program) is Outcome.BUILD_FAILED][:2]
    for program in broken:
        run("grammar.py", "judge", "--judge", "usual", "--out", packed, "--only", grammar.name_of(program))
        judged.append(program)
        assert list(grammar.load(packed)) == judged
        assert {record.outcome for record in read_log(packed)} == {Outcome.BUILD_FAILED}
    assert not list(tmp_path.glob("*.jsonl"))


def test_the_bandit_learns_and_says_what(grammar):
    told = run("train_bandit.py", "--seeds", 4, "--steps", 60, "--learning-rate", 0.1)
    start, end, low = (float(told.split(word)[1].split()[0].rstrip(",")) for word in ("\nstart ", ", end ", "95 % interval "))
    assert end > start
    assert low > 0
    assert grammar.name_of(grammar.SEED) in told
    assert "outcomes proposed at the end" in told


def test_the_same_seed_gives_the_same_run(grammar, bandit):
    records, options = grammar.load(grammar.LOG), bandit.Options(seeds=2, steps=5)
    first, second = (bandit.replay(records, load_preset("production"), options) for _ in range(2))
    assert [curve.reward.tolist() for curve in first] == [curve.reward.tolist() for curve in second]
    other = bandit.replay(records, load_preset("production"), bandit.Options(seeds=2, steps=5, seed=1))
    assert other[-1].reward.tolist() != first[-1].reward.tolist()


def test_programs_without_a_reward_teach_nothing(grammar, bandit, tmp_path):
    records, log = grammar.load(grammar.LOG), tmp_path / "few.jsonl"
    faulty = next(program for program in records if program != grammar.SEED)
    append_record(log, records[grammar.SEED])
    append_record(log, msgspec.structs.replace(records[faulty], outcome=Outcome.FAULT))
    preset = load_preset("production")
    judge = bandit.Replay(grammar.load(log), preset)
    assert judge.rewards.isfinite().sum() == 1
    expected_reward = judge.worth(bandit.Policy(3), 0).reward
    assert expected_reward.tolist() == pytest.approx([preset.score(records[grammar.SEED]).total] * 3)


@given(st.lists(st.lists(st.floats(-2, 2, width=32) | st.just(float("nan")), min_size=4, max_size=4), min_size=1, max_size=5))
def test_advantages_are_relative_to_the_group(bandit, rewards):
    values = bandit.torch.tensor(rewards)
    relative = bandit.advantages(values)
    assert relative.isfinite().all()
    assert relative.sum(1).abs().max() < 1e-3
    assert (relative[values.isnan()] == 0).all()
    above = values[:, :, None] > values[:, None, :]
    assert (relative[:, :, None] >= relative[:, None, :])[above].all()


@pytest.mark.slow
@pytest.mark.sampled(take=1)
def test_a_live_run_judges_what_it_proposes(grammar):
    told = run("train_bandit.py", "--live", 1, "--live-group", 2)
    proposed = [line.split() for line in told.splitlines() if "|" in line]
    assert len(proposed) == 2
    for name, outcome, reward in proposed:
        assert Outcome(outcome) in expected(grammar.parse(name))
        assert -1 <= float(reward) <= 2


@pytest.mark.slow
@pytest.mark.sampled(take=1)
def test_the_quickstart_ends_with_an_accepted_kernel():
    told = run("quickstart.py")
    assert "turn 1: silent_error" in told
    assert "turn 2: accepted" in told
