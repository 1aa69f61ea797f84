"""The worker's side of an evaluation: how entries, `prepare` and `plan` are called, and what is timed apart."""

from __future__ import annotations

import textwrap

import pytest

from fastkernels_env import Outcome
from fastkernels_env.types import Stage

PREPARED = """
    import torch

    def prepare(out, input, weight, factor):
        {check}
        return weight * factor

    def tiny_scale(out, input, weight, factor, *, prepared):
        torch.mul(input, prepared, out=out)
"""
PAGED = '''
    """Gathers pages: a task with metadata, an in-out argument and an integer output."""

    import torch

    from fastkernels_env.task import Baseline, Cost, InOut, Input, Metadata, Output, Task
    from fastkernels_env.types import Regime


    class Paged(Task):
        """Adds pages to a state and counts."""

        entry = "paged"
        summary = "Add the pages that an index names to a state and double the index."
        semantics = "state[t] += pages[index[t]]; twice[t] = 2 * index[t]."
        mirrors = "nothing.in_production"
        level = "L1"
        category = "test"
        architectures = ("none",)
        signature = (
            Output("twice", "T", dtype="int32"),
            InOut("state", "T", "H"),
            Input("pages", "P", "H"),
            Metadata("index", "T"),
        )
        baselines = (Baseline(name="eager", file="eager.py"),)
        regimes = (Regime.REALISTIC, Regime.SKEWED, Regime.EMPTY)
        ragged = {"cpu": {"T": (1, 30)}}

        def inputs(self, workload, draw):
            rows, pages, width = (workload.sizes[name] for name in "TPH")
            dtype = getattr(torch, workload.dtype)
            index = torch.randint(0, 1 if draw.regime is Regime.SKEWED else pages, (rows,), generator=draw.host, dtype=torch.int32)
            return {"state": draw.activation((rows, width), dtype), "pages": draw.activation((pages, width), dtype), "index": index}

        def oracle(self, args):
            index = args["index"].long()
            return {"state": args["state"].double() + args["pages"].double()[index], "twice": 2 * args["index"]}

        def cost(self, workload, args):
            return Cost(bytes=8 << 20, flops=1)


    TASK = Paged()
'''
WORKLOADS = '{"name": "w", "device": "cpu", "dtype": "float32", "sizes": {"T": 24, "P": 10, "H": 32}, "source": "a test"}'
EAGER = """
    def paged(twice, state, pages, index):
        state += pages[index]
        twice.copy_(index * 2)
"""


def fenced(code):
    return f"```python\n{textwrap.dedent(code).strip()}\n```"


@pytest.fixture
def paged(tmp_path, task_files, monkeypatch):
    task_files(tmp_path / "paged", task=PAGED, workloads=WORKLOADS, eager=EAGER)
    monkeypatch.setenv("FASTKERNELS_ENV_PATH", str(tmp_path))
    return "paged"


def test_prepare_sees_weights_and_numbers_and_the_shape_of_the_rest(evaluator, tiny):
    check = "assert not weight.is_meta and factor == 1.5 and input.is_meta and out.is_meta and input.shape == out.shape"
    evaluation = evaluator.evaluate("tiny_scale", fenced(PREPARED.format(check=check)))
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason
    assert set(evaluation.setup_us) == {"candidate/prepare"}
    assert evaluation.setup_us["candidate/prepare"] > 0


@pytest.mark.parametrize("check", ["input.sum().item()", "out.fill_(0)\n        out.tolist()"])
def test_prepare_has_nothing_to_compute_ahead_from(check, evaluator, tiny):
    evaluation = evaluator.evaluate("tiny_scale", fenced(PREPARED.format(check=check)))
    assert evaluation.outcome is Outcome.CRASHED, evaluation.reason
    assert "meta" in evaluation.reason.lower() or "NotImplementedError" in evaluation.reason


def test_prepare_that_repacks_wrongly_is_found_out(evaluator, tiny):
    code = PREPARED.format(check="pass").replace("weight * factor", "weight")
    assert evaluator.evaluate("tiny_scale", fenced(code)).outcome is Outcome.WRONG


def test_prepare_that_writes_a_weight_is_found_out(evaluator, tiny):
    code = PREPARED.format(check="pass").replace("return weight * factor", "return weight.mul_(factor)")
    evaluation = evaluator.evaluate("tiny_scale", fenced(code))
    assert evaluation.outcome is Outcome.SILENT_ERROR, evaluation.reason
    assert "'weight' was modified" in evaluation.check("inputs_unchanged").detail


PLANNED = """
    def plan(twice, state, pages, index):
        {check}
        return index.tolist()

    def paged(twice, state, pages, index, *, plan):
        for row, page in enumerate(plan):
            state[row] += pages[page]
        twice.copy_(index * 2)
"""


def test_plan_sees_metadata_and_runs_anew_for_every_refill(evaluator, paged):
    check = "assert not index.is_meta and state.is_meta and pages.is_meta and twice.is_meta"
    evaluation = evaluator.evaluate(paged, fenced(PLANNED.format(check=check)))
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason
    assert set(evaluation.setup_us) == {"candidate/plan"}


def test_a_plan_kept_from_the_first_call_is_found_out(evaluator, paged):
    code = PLANNED.format(check="kept.append(index.tolist()) if len(kept) < 30 else None").replace(
        "return index.tolist()", "return kept[0] if len(kept) == 30 and len(kept[0]) == len(index) else index.tolist()"
    )
    evaluation = evaluator.evaluate(paged, fenced("kept = []\n" + textwrap.dedent(code)))
    assert evaluation.outcome in (Outcome.TAMPERED, Outcome.SILENT_ERROR), evaluation.reason


PAGED_BUGS = {
    "state not added to": ("state += pages[index]", "state.copy_(pages[index])", Outcome.WRONG),
    "state left alone": ("state += pages[index]", "pass", Outcome.WRONG),
    "an index off by one": ("index * 2", "index * 2 + 1", Outcome.WRONG),
    "an index left alone": ("twice.copy_(index * 2)", "pass", Outcome.WRONG),
    "metadata overwritten": ("twice.copy_(index * 2)", "index.mul_(2)\n        twice.copy_(index)", Outcome.SILENT_ERROR),
    "pages overwritten": ("twice.copy_(index * 2)", "twice.copy_(index * 2)\n        pages[0] = 0", Outcome.SILENT_ERROR),
    "wrong for one hot page": ("pages[index]", "pages[index] * (1 + (index.eq(0).all() and index.numel() > 1))", Outcome.SILENT_ERROR),
}


def test_in_out_arguments_metadata_and_integers(evaluator, paged):
    evaluation = evaluator.evaluate(paged, fenced(EAGER))
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason


@pytest.mark.parametrize("name", PAGED_BUGS)
def test_errors_in_them(name, evaluator, paged):
    find, replace, outcome = PAGED_BUGS[name]
    assert find in EAGER
    evaluation = evaluator.evaluate(paged, fenced(EAGER.replace(find, replace)))
    assert evaluation.outcome is outcome, evaluation.reason


def test_adding_to_the_state_twice_under_the_clock_is_found_out(evaluator, paged):
    """In-out arguments are restored before every block, so the second of two additions shows."""
    code = EAGER.replace("state += pages[index]", "calls.append(0)\n        state += pages[index] * (2 if len(calls) > 80 else 1)")
    evaluation = evaluator.evaluate(paged, fenced("calls = []\n" + textwrap.dedent(code)))
    assert evaluation.outcome is Outcome.SILENT_ERROR, evaluation.reason
    assert "timed call" in evaluation.reason


def test_doing_nothing_to_in_out_arguments_under_the_clock_is_found_out(evaluator, paged):
    code = EAGER.replace("state += pages[index]", "calls.append(0)\n        if len(calls) > 80: return\n        state += pages[index]")
    evaluation = evaluator.evaluate(paged, fenced("calls = []\n" + textwrap.dedent(code)))
    assert evaluation.outcome is Outcome.TAMPERED, evaluation.reason


def test_a_traceback_shows_the_submissions_lines_and_not_the_workers(evaluator, tiny):
    code = "def helper(x):\n    return x.no_such_method()\n\ndef tiny_scale(out, input, weight, factor):\n    helper(input)\n"
    evaluation = evaluator.evaluate("tiny_scale", fenced(code))
    assert evaluation.outcome is Outcome.CRASHED
    assert "no_such_method" in evaluation.reason
    assert "return x.no_such_method()" in evaluation.feedback
    assert "helper(input)" in evaluation.feedback
    assert "fastkernels_env/worker" not in evaluation.feedback
    assert evaluation.checks[0].stage is Stage.BUILD
