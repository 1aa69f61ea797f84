"""Inner operations: a submission replaces some, the program around it is judged as a whole."""

import pytest

from fastkernels_env import Outcome
from fastkernels_env.ops import check_program
from fastkernels_env.prompt import build_prompt
from fastkernels_env.registry import load_task, read_outline, register_task
from fastkernels_env.submission import RejectedError, extract
from fastkernels_env.task import TaskError

PROGRAM = '''
    import torch

    COMPILED = ("inner",)


    def scale(out, input, factor):
        torch.mul(input, factor, out=out)


    def shift(out, input, weight):
        torch.add(input, weight, out=out)


    def inner(input, weight, factor):
        scaled = torch.empty_like(input)
        scale(scaled, input, factor)
        shifted = torch.empty_like(input)
        shift(shifted, scaled, weight)
        return shifted


    def tiny_scale(out, input, weight, factor):
        out.copy_(inner(input.contiguous(), weight, factor) * 2)
'''
OPS = """        ops = (
            Op("scale", "out = input * factor.", (Output("out", "T", "H"), Input("input", "T", "H"), Scalar("factor", "float"))),
            Op("shift", "out = input + weight.", (Output("out", "T", "H"), Input("input", "T", "H"), Weight("weight", "H"))),
        )
"""
SCALE = """
#include <fastkernels.h>

void scale(tvm::ffi::TensorView out, tvm::ffi::TensorView input, double factor) {
  for (int64_t i = 0; i < input.numel(); ++i) fk::data<float>(out)[i] = fk::data<float>(input)[i] * float(factor);
}
"""
SHIFT = """
void shift(tvm::ffi::TensorView out, tvm::ffi::TensorView input, tvm::ffi::TensorView weight) {
  const int64_t width = input.size(1);
  for (int64_t i = 0; i < input.numel(); ++i) fk::data<float>(out)[i] = fk::data<float>(input)[i] + fk::data<float>(weight)[i % width];
}
"""


def cpp(code):
    return f"```cpp\n{code}\n```"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, task_files):
    text = task_files.texts["task"]
    for find, replacement in (
        ("Input, Output, Scalar", "Input, Op, Output, Scalar"),
        ("        baselines = ", OPS + "        baselines = "),
        (
            'args["input"].double() * args["weight"].double() * args["factor"]',
            '2 * (args["input"].double() * args["factor"] + args["weight"].double())',
        ),
    ):
        assert text.count(find) == 1
        text = text.replace(find, replacement)
    return task_files(tmp_path_factory.mktemp("programs") / "tiny_program", task=text, eager=PROGRAM, cpu=SCALE)


@pytest.fixture
def program(folder, monkeypatch):
    monkeypatch.setenv("FASTKERNELS_ENV_PATH", str(folder.parent))
    return load_task("tiny_program")


# -- what a reply may hold -------------------------------------------------------------------------------------------------------


def test_one_op_is_a_submission(program):
    submission = extract(cpp(SCALE), program, "cpu")
    assert (submission.entry, submission.ops) == ("tiny_scale", ("scale",))


def test_several_are_one_submission_and_the_entry_stands_alone(program):
    assert extract(cpp(SCALE + SHIFT), program, "cpu").ops == ("scale", "shift")
    whole = "def scale(out, input, factor): pass\n\n\ndef tiny_scale(out, input, weight, factor): pass\n"
    assert extract(f"```python\n{whole}```", program, "cpu").ops == ()


def test_the_last_block_that_defines_an_op_counts(program):
    reply = f"{cpp(SCALE)}\nUse it like this:\n```cpp\nint main() {{ return 0; }}\n```"
    assert extract(reply, program, "cpu").code.startswith("\n#include")


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("def scale(out, x, factor): pass", r"expected scale\(out, input, factor\), found scale\(out, x, factor\)"),
        ("def shift(out, input): pass", r"expected shift\(out, input, weight\), found shift\(out, input\)"),
        ("def scale(out, input, factor, *, plan): pass", "no keyword-only argument of scale, found 'plan'"),
        ("def other(): pass", r"a function tiny_scale\(.*\), or one or several of scale\(out, input, factor\), shift\(out, input, weigh"),
    ],
)  # fmt: skip
def test_what_is_no_submission_is_told_in_a_sentence(program, code, told):
    with pytest.raises(RejectedError, match=told):
        extract(f"```python\n{code}\n```", program, "cpu")


def test_such_a_task_is_read_in_full(program):
    assert read_outline("tiny_program") is None


def test_the_prompt_shows_every_op_and_the_program(program):
    prompt = build_prompt(program, "cpu")
    assert "## Inner operations" in prompt
    for text in ("### `scale`", "### `shift`", "void shift(tvm::ffi::TensorView out,", 'COMPILED = ("inner",)', "or an inner operation "):
        assert text in prompt


# -- how it is judged ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [SCALE, SCALE + SHIFT], ids=["one", "both"])
def test_right_ops_are_accepted(program, evaluator, code):
    evaluation = evaluator.evaluate("tiny_program", cpp(code))
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason
    named = {check.name: check.status.value for check in evaluation.checks}
    assert named["op_schema"] == named["opaque_graph"] == "passed"


def test_the_whole_entry_is_accepted_too(program, evaluator):
    whole = """
    #include <fastkernels.h>
    void tiny_scale(tvm::ffi::TensorView out, tvm::ffi::TensorView input, tvm::ffi::TensorView weight, double factor) {
      for (int64_t t = 0; t < input.size(0); ++t)
        for (int64_t h = 0; h < input.size(1); ++h)
          fk::data<float>(out)[t * out.size(1) + h] =
              2 * (fk::data<float>(input)[t * input.stride(0) + h] * float(factor) + fk::data<float>(weight)[h]);
    }
    """
    evaluation = evaluator.evaluate("tiny_program", cpp(whole))
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason


def test_python_ops_are_verified_and_traced(program, evaluator):
    code = "import torch\n\n\ndef scale(out, input, factor):\n    torch.mul(input, factor, out=out)\n"
    evaluation = evaluator.evaluate("tiny_program", f"```python\n{code}```")
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason


def test_a_wrong_op_is_wrong(program, evaluator):
    evaluation = evaluator.evaluate("tiny_program", cpp(SCALE.replace("float(factor)", "float(factor) * 1.01f")))
    assert evaluation.outcome in (Outcome.WRONG, Outcome.SILENT_ERROR)


def test_an_op_that_writes_its_input_breaks_the_compiled_program(program, evaluator):
    """The program never looks at what it scales again: run as it is, it is right."""
    code = SCALE.replace("  for (", "  for (int64_t i = 0; i < input.numel(); ++i) fk::data<float>(input)[i] *= 1.f;\n  for (").replace(
        "* float(factor);", "* float(factor), fk::data<float>(input)[i] = 0.f;"
    )
    evaluation = evaluator.evaluate("tiny_program", cpp(code))
    assert evaluation.outcome is not Outcome.ACCEPTED
    assert "read-only" in evaluation.reason or "op_schema" in evaluation.reason, evaluation.reason


def test_an_op_that_raises_is_a_crash_with_its_words(program, evaluator):
    code = "def scale(out, input, factor):\n    raise ValueError('no such luck')\n"
    evaluation = evaluator.evaluate("tiny_program", f"```python\n{code}```")
    assert evaluation.outcome is Outcome.CRASHED
    assert "no such luck" in evaluation.reason


# -- what a task must state ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("find", "replacement", "told"),
    [
        ("def shift(out, input, weight)", "def shift(out, weight, input)", r"in eager.py, found shift\(out, weight, input\)"),
        ("def scale(", "def scaled(", r"expected scale\(out, input, factor\) in eager.py, found no such function"),
    ],
)  # fmt: skip
def test_a_program_that_does_not_fit_is_refused(program, tmp_path, task_files, find, replacement, told):
    text = (program.folder / "task.py").read_text()
    broken = task_files(tmp_path / "broken", task=text, eager=PROGRAM.replace(find, replacement), cpu=SCALE)
    with pytest.raises(TaskError, match=told):
        register_task(broken)


def test_every_program_of_ours_fits():
    from fastkernels_env.registry import task_folders

    programs = [task for task in map(load_task, task_folders()) if task.ops]
    assert programs
    for task in programs:
        check_program(task)
        assert task.level in ("L3", "L4")
