"""Qualification of a small task: what is rejected, what survives, what is equivalent, and what is not judged again."""

import pytest

from fastkernels_env.qualify.candidates import candidates
from fastkernels_env.qualify.command import exit_status, qualify
from fastkernels_env.qualify.equivalent import entry_text
from fastkernels_env.qualify.mutations import enumerate_mutations
from fastkernels_env.qualify.records import Status, read_results
from fastkernels_env.qualify.report import kill_rate, to_json, to_markdown
from fastkernels_env.qualify.runner import Runner
from fastkernels_env.registry import load_task
from fastkernels_env.task import TaskError

MUTANTS = """
    [[mutant]]
    name = "ignored_weight"
    seed = "cpu.cpp"
    find = " * w[h]"
    replace = ""

    [[mutant]]
    name = "ignored_factor"
    seed = "cpu.cpp"
    find = " * float(factor)"
    replace = ""
"""


@pytest.fixture
def make(tmp_path, task_files, monkeypatch):
    """A copy of the quick task under another name, with other texts and further files."""
    monkeypatch.setenv("FASTKERNELS_ENV_PATH", str(tmp_path))

    def build(name, files=(), **changed):
        folder = task_files(tmp_path / name, **changed)
        for file, text in dict(files).items():
            (folder / file).write_text("\n".join(line.strip() for line in text.splitlines()))
        return load_task(name)

    return build


def blind(task_files, factor):
    """The quick task's text with another factor."""
    return task_files.texts["task"].replace('"factor": 1.5', f'"factor": {factor}')


def factor_mutation(task):
    source = task.seeds()["cpu.cpp"]
    return next(m for m in enumerate_mutations("cpu.cpp", source) if m.operator == "dropped term" and "factor" in m.before), source


def test_mutants_are_killed_and_a_second_call_judges_nothing(make, evaluator, tmp_path):
    task, out = make("qualified_scale", {"mutants.toml": MUTANTS}), tmp_path / "results.jsonl"
    results = qualify(evaluator, [task], budget=3, out=out)
    assert [(r.kind, r.status) for r in results[:2]] == [("hand", Status.KILLED)] * 2
    assert [r.kind for r in results[2:]] == ["auto"] * 3
    assert {r.status for r in results} <= {Status.KILLED, Status.STILLBORN}
    assert exit_status(results) == 0
    assert kill_rate(results) == 1.0
    assert read_results(out) == results
    written = out.read_bytes()
    out.write_bytes(written + b'{"half a li')
    assert qualify(evaluator, [task], budget=3, out=out) == results
    assert out.read_bytes() == written + b'{"half a li'
    assert f"| {task.folder.name} | cpu.cpp | 2 / 2 |" in to_markdown(results)


def test_what_a_task_cannot_see_survives_unless_it_says_why(make, task_files, evaluator):
    text = blind(task_files, 1.0)
    task = make("blind_scale", {"mutants.toml": MUTANTS}, task=text)
    results = qualify(evaluator, [task], budget=0)
    assert {r.id: (r.status, r.kills, r.tries) for r in results} == {
        "ignored_weight": (Status.KILLED, 1, 1), "ignored_factor": (Status.SURVIVED, 0, 5),
    }
    assert exit_status(results) == 1
    assert kill_rate(results) == 0.5
    assert "### Survivors" in to_markdown(results)
    assert [survivor["id"] for survivor in to_json(results)["open"]] == ["ignored_factor"]

    mutation, source = factor_mutation(task)
    entry = entry_text(mutation, source).replace('reason = ""', 'reason = "the factor is always one"')
    excused = make("excused_scale", {"equivalent.toml": entry}, task=text)
    chosen = [c for c in candidates(excused, "cpu", 10**6, 0) if c.id == mutation.id]
    assert [(r.status, r.reason) for r in judged(evaluator, excused, chosen)] == [(Status.EQUIVALENT, "the factor is always one")]

    wrongly = make("wrongly_excused_scale", {"equivalent.toml": entry})
    chosen = [c for c in candidates(wrongly, "cpu", 10**6, 0) if c.id == mutation.id]
    results = judged(evaluator, wrongly, chosen)
    assert [r.status for r in results] == [Status.DISPROVED]
    assert exit_status(results) == 1


def judged(evaluator, task, chosen):
    runner, results = Runner(evaluator, task, 0), []
    runner.check_seeds(["cpu.cpp"])
    runner.run(chosen, results.append)
    return results


def test_luck_machine_code_builds_and_faults_are_told_apart(make, task_files, evaluator):
    lucky = "1.5 if float(__import__('torch').rand((), generator=draw.host)) < 0.12 else 1.0"
    task = make("lucky_scale", {"mutants.toml": MUTANTS}, task=blind(task_files, lucky))
    weak = next(c for c in candidates(task, "cpu", 0, 0) if c.id == "ignored_factor")
    found = set()
    for seed in range(8):  # one seed may see it at once, or never
        runner, results = Runner(evaluator, task, seed), []
        runner.run([weak], results.append)
        found.add(results[0].status)
        if results[0].status is Status.WEAK:
            assert 0 < results[0].kills < results[0].tries == 5
            break
    assert Status.WEAK in found

    source = task.seeds()["cpu.cpp"]
    same, unbuilt = weak._replace(id="same", source=source + "// as it was\n"), weak._replace(id="unbuilt", source=source + "int x = y;\n")
    elsewhere = weak._replace(id="elsewhere", source="", not_run="needs a GPU")
    statuses = {r.id: r.status for r in judged(evaluator, task, [same, unbuilt, elsewhere])}
    assert statuses == {"same": Status.EQUIVALENT, "unbuilt": Status.STILLBORN, "elsewhere": Status.NOT_RUN}


def test_a_fault_is_no_kill(make, task_files, evaluator):
    broken = task_files.texts["task"].replace('return {"out":', 'assert args["factor"] < 1\n            return {"out":')
    task = make("faulty_scale", {"mutants.toml": MUTANTS}, task=broken)
    results = []
    Runner(evaluator, task, 0).run(candidates(task, "cpu", 0, 0)[:1], results.append)
    assert [(r.status, r.kills) for r in results] == [(Status.ERROR, 0)]
    assert exit_status(results) == 3


def test_a_seed_that_is_wrong_is_named(make, task_files, evaluator):
    seed = task_files.texts["cpu"].replace("x[t * stride + h] *", "2.f * x[t * stride + h] *")
    task = make("wrong_seed_scale", {"mutants.toml": MUTANTS}, cpu=seed)
    with pytest.raises(TaskError, match=r"expected the seed cpu\.cpp of 'wrong_seed_scale' to be right, it is wrong: smoke failed"):
        qualify(evaluator, [task], budget=0)


def test_results_of_something_else_are_refused(make, evaluator, tmp_path):
    out = tmp_path / "results.jsonl"
    out.write_text('{"a": 1}\n')
    with pytest.raises(ValueError, match=r"results.jsonl line 1 is no result of a qualification"):
        qualify(evaluator, [], out=out)
