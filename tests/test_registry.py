"""Finding, loading and judging tasks, those of a third party above all."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import gymnasium
import pytest

from fastkernels_env import Outcome, attention, load_task, register_task
from fastkernels_env.registry import _registered, read_outline, task_folders
from fastkernels_env.task import TaskError


@pytest.fixture
def registered():
    """What `register_task` adds during a test is taken back after it."""
    before, ids = dict(_registered), set(gymnasium.registry)
    yield
    _registered.clear()
    _registered.update(before)
    for added in set(gymnasium.registry) - ids:
        del gymnasium.registry[added]


def fenced(language, code):
    return f"```{language}\n{textwrap.dedent(code).strip()}\n```"


def test_listing_tasks_imports_none_of_them(tiny_root):
    code = """
        import sys
        from fastkernels_env.registry import task_folders
        print(len(task_folders()), "torch" in sys.modules, any(name.endswith(".task") and "envs" in name for name in sys.modules))
    """
    answer = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True).stdout.split()
    assert answer == [str(len(task_folders())), "False", "False"]


def test_outlines_say_what_the_tasks_say():
    for name in task_folders():
        outline, task = read_outline(name), load_task(name)
        if task.ops:
            assert outline is None  # its source alone does not say them
            continue
        assert outline is not None
        assert outline.entry == task.entry
        assert [arg.name for arg in outline.entry_signature] == [arg.name for arg in task.entry_signature]


@pytest.mark.parametrize(
    "source",
    [
        "class A:\n    entry = 'f'\n",
        "class A:\n    entry = NAME\n    signature = (Input('x'),)\n",
        "class A:\n    entry = 'f'\n    signature = (Input('x'), *shared)\n",
        "class A:\n    entry = 'f'\n    signature = (Input('x'), *attention.PAGE_TABLES)\n",
        "import attention\nclass A:\n    entry = 'f'\n    signature = (Input('x'), *attention.PAGE_TABLES)\n",
        "from ... import attention\nclass A:\n    entry = 'f'\n    signature = (Input('x'), *attention.NO_SUCH_TUPLE)\n",
        "from ... import attention\nclass A:\n    entry = 'f'\n    signature = (Input('x'), *attention._SCORES)\n",
        "from ... import no_such_module\nclass A:\n    entry = 'f'\n    signature = (Input('x'), *no_such_module.TABLES)\n",
        "class A:\n    entry = 'f'\n    signature = make()\n",
        "class A:\n    entry = 'f'\n    signature = (Input(NAME),)\n",
        "class A:\n    entry = 'f'\n    signature = (Input('x'),)\nclass B(A):\n    entry = 'g'\n    signature = (Input('x'),)\n",
        "class A:\n    entry = (\n",
        "\0",
    ],
)
def test_what_is_not_plain_has_no_outline(tmp_path, monkeypatch, source):
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "task.py").write_text(source)
    monkeypatch.setenv("FASTKERNELS_ENV_PATH", str(tmp_path))
    assert read_outline("task") is None
    assert read_outline("no such task") is None


def test_what_a_signature_takes_from_the_package_is_in_its_outline(tmp_path, monkeypatch):
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "task.py").write_text(
        "from fastkernels_env import attention as tables\n"
        "class A:\n    entry = 'f'\n    signature = (Output('out'), *tables.PAGE_TABLES, Scalar('scale'))\n"
    )
    monkeypatch.setenv("FASTKERNELS_ENV_PATH", str(tmp_path))
    outline = read_outline("task")
    assert outline is not None
    assert [arg.name for arg in outline.entry_signature] == ["out", *(arg.name for arg in attention.PAGE_TABLES), "scale"]


def test_a_first_build_starts_before_torch_is_imported_and_judges_as_any_other(tmp_path):
    """The head start must not survive a task whose source says one thing and whose class another."""
    code = """
        import sys
        from fastkernels_env import Evaluator, Outcome
        from fastkernels_env._pipeline import head_start
        from fastkernels_env.registry import task_folders
        text = (task_folders()["silu_and_mul"] / "seeds" / "cpu.cpp").read_text()
        with head_start("silu_and_mul", text, "cpu") as build:
            assert build is not None and "torch" not in sys.modules
        for task, reply in (("silu_and_mul", "no code"), ("rms_norm", text), ("nothing", text), ("silu_and_mul", "def silu_and_mul(): 1")):
            with head_start(task, reply, "cpu") as build:
                assert build is None, task
        with Evaluator("cpu", effort="quick") as evaluator:
            print(evaluator.evaluate("silu_and_mul", text).outcome)
    """
    answer = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert answer.stdout.strip() == "accepted", answer.stderr


def test_unknown_names_list_what_is_known():
    with pytest.raises(TaskError, match=r"unknown task 'rms_nrom'.*rms_norm"):
        load_task("rms_nrom")


def test_a_folder_on_the_path_is_a_task(tiny, tiny_root):
    assert task_folders()["tiny_scale"] == tiny_root / "tiny_scale"
    assert tiny.folder == (tiny_root / "tiny_scale").resolve()
    assert load_task("tiny_scale") is tiny


def test_off_the_path_it_is_none():
    assert "tiny_scale" not in task_folders()
    with pytest.raises(TaskError, match=r"unknown task"):
        load_task("tiny_scale")


def test_several_folders_are_separated_as_in_path(tmp_path, task_files, monkeypatch):
    task_files(tmp_path / "a" / "first")
    task_files(tmp_path / "b" / "second")
    monkeypatch.setenv("FASTKERNELS_ENV_PATH", os.pathsep.join(["", str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "none")]))
    assert {"first", "second"} <= set(task_folders())
    assert load_task("first") is not load_task("second")
    assert list(task_folders()) == sorted(task_folders())


@pytest.mark.usefixtures("registered")
def test_register_task_returns_the_name_and_adds_an_id(tmp_path, task_files):
    folder = task_files(tmp_path / "handed_over")
    assert register_task(folder) == "handed_over"
    assert register_task(str(folder)) == "handed_over"
    assert load_task("handed_over").entry == "tiny_scale"
    assert "FastKernels/handed_over-v0" in gymnasium.registry


def test_register_task_wants_a_task(tmp_path):
    with pytest.raises(TaskError, match="expected a task folder"):
        register_task(tmp_path)
    assert tmp_path.name not in task_folders()


BROKEN = {
    "syntax": ("    TASK = TinyScale()", "    TASK = (", "cannot be imported: SyntaxError"),
    "import": ("import torch", "import torch_of_another_name", "cannot be imported: ModuleNotFoundError"),
    "raises": ("TASK = TinyScale()", "raise RuntimeError('my own fault')", "cannot be imported: RuntimeError: my own fault"),
    "no_task": ("TASK = TinyScale()", "task = TinyScale()", "must define TASK"),
    "class_not_instance": ("TASK = TinyScale()", "TASK = TinyScale", "must define TASK"),
    "abstract": ("def oracle(", "def oracle_of_another_name(", "cannot be imported: TypeError"),
    "no_summary": ('summary = "', 'summry = "', "lacks the class attribute 'summary'"),
    "level": ('level = "L1"', 'level = "L7"', "level must be L1, L2, L3 or L4"),
    "no_output": ('Output("out", "T", "H"),', "", "no output"),
    "no_baseline_file": ('file="eager.py"', 'file="flash.py"', "needs baselines/flash.py"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_task_file_is_refused_by_name(name, tmp_path, task_files, monkeypatch):
    find, replace, sentence = BROKEN[name]
    source = task_files.texts["task"]
    assert find in source
    task_files(tmp_path / f"broken_{name}", task=source.replace(find, replace))
    monkeypatch.setenv("FASTKERNELS_ENV_PATH", str(tmp_path))
    with pytest.raises(TaskError, match=f"(?s)task 'broken_{name}'.*{sentence}"):
        load_task(f"broken_{name}")


@pytest.mark.parametrize(("workloads", "sentence"), [("", "no workload"), ("{}", "workloads.jsonl line 1")])
def test_broken_workloads_are_refused_by_name(workloads, sentence, tmp_path, task_files, monkeypatch):
    task_files(tmp_path / "shapeless", workloads=workloads)
    monkeypatch.setenv("FASTKERNELS_ENV_PATH", str(tmp_path))
    with pytest.raises(TaskError, match=f"'shapeless'.*{sentence}"):
        load_task("shapeless")


def test_a_file_that_was_mended_loads(tmp_path, task_files, monkeypatch):
    source = task_files.texts["task"]
    monkeypatch.setenv("FASTKERNELS_ENV_PATH", str(tmp_path))
    task_files(tmp_path / "mended", task=source.replace("TASK = ", "TUSK = "))
    with pytest.raises(TaskError):
        load_task("mended")
    task_files(tmp_path / "mended")
    assert load_task("mended").entry == "tiny_scale"


def test_a_third_partys_task_is_judged_end_to_end(evaluator, tiny, task_files):
    accepted = evaluator.evaluate("tiny_scale", fenced("cpp", task_files.texts["cpu"]))
    assert accepted.outcome is Outcome.ACCEPTED, accepted.reason
    assert accepted.task == "tiny_scale"
    assert accepted.speedup is not None
    assert [t.workload for t in accepted.timings] == ["whole"]
    wrong = evaluator.evaluate("tiny_scale", fenced("cpp", task_files.texts["cpu"].replace("* w[h]", "")))
    assert wrong.outcome is Outcome.WRONG
    assert wrong.speedup is None


FAULTS = {
    "oracle_raises": ('return {"out": args', 'raise RuntimeError("no oracle today"); return {"out": args', "RuntimeError: no oracle today"),
    "oracle_shape": ('args["input"].double()', 'args["input"].double()[:1]', r"must have shape (16, 64), it has (1, 64)"),
    "oracle_dtype": ('.double() * args["weight"].double()', ' * args["weight"]', "must be float64, it is torch.float32"),
}
"""More of them in tests/judge/test_cases.py, where a case is made without an evaluation around it."""


@pytest.mark.parametrize("name", FAULTS)
def test_a_broken_oracle_is_a_fault_that_names_the_task(name, evaluator, tmp_path, task_files, monkeypatch):
    find, replace, sentence = FAULTS[name]
    source = task_files.texts["task"]
    assert find in source
    task_files(tmp_path / f"faulty_{name}", task=source.replace(find, replace))
    monkeypatch.setenv("FASTKERNELS_ENV_PATH", str(tmp_path))
    evaluation = evaluator.evaluate(f"faulty_{name}", fenced("python", task_files.texts["eager"]))
    assert evaluation.outcome is Outcome.FAULT
    assert f"'faulty_{name}'" in evaluation.reason
    assert sentence in evaluation.reason


def test_a_broken_baseline_is_a_fault_that_names_the_task(evaluator, tmp_path, task_files, monkeypatch):
    task_files(tmp_path / "uncontested", eager="def tiny_scale(out, input, weight, factor):\n    raise RuntimeError('out of order')\n")
    monkeypatch.setenv("FASTKERNELS_ENV_PATH", str(tmp_path))
    evaluation = evaluator.evaluate("uncontested", fenced("python", task_files.texts["eager"]))
    assert evaluation.outcome is Outcome.FAULT
    assert "'uncontested'" in evaluation.reason
    assert "out of order" in evaluation.reason
    assert [(b.name, b.status) for b in evaluation.baselines] == [("eager", "failed")]


def test_a_baseline_that_cannot_be_imported_is_reported(evaluator, tmp_path, task_files, monkeypatch):
    source = task_files.texts["task"].replace(
        'baselines = (Baseline(name="eager", file="eager.py"),)',
        'baselines = (Baseline(name="eager", file="eager.py"), Baseline(name="fast", file="fast.py"),'
        ' Baseline(name="absent", file="fast.py", requires="a_package_that_nobody_has"))',
    )
    folder = task_files(tmp_path / "halved", task=source)
    (folder / "baselines" / "fast.py").write_text("import a_package_that_nobody_has\n")
    monkeypatch.setenv("FASTKERNELS_ENV_PATH", str(tmp_path))
    evaluation = evaluator.evaluate("halved", fenced("python", task_files.texts["eager"]))
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason
    statuses = {b.name: (b.status, b.detail) for b in evaluation.baselines}
    assert statuses["eager"][0] == "used"
    assert statuses["fast"][0] == "not_available"
    assert "a_package_that_nobody_has" in statuses["fast"][1]
    assert statuses["absent"][0] == "not_available"
    assert set(evaluation.timings[0].baselines) == {"eager"}
