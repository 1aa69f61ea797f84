"""Cases: drawn from seeds, completed, and refused where a task breaks its own signature."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastkernels_env.judge.cases import completed, derive_seed, make_case
from fastkernels_env.judge.errors import JudgeFault
from fastkernels_env.registry import load_task
from fastkernels_env.types import Regime


def case_of(task, regime=Regime.REALISTIC, seed=3, **options):
    return make_case(task, task.smoke_workload("cpu"), regime, seed, "cpu", **options)


@given(st.integers(0, 2**48), st.lists(st.one_of(st.integers(), st.text()), max_size=3))
def test_derived_seeds_fit_a_generator_and_depend_on_every_label(seed, labels):
    derived = derive_seed(seed, *labels)
    assert derived == derive_seed(seed, *labels)
    assert 0 <= derived < 2**63
    assert derived != derive_seed(seed + 1, *labels)
    assert derived != derive_seed(seed, *labels, 0)
    torch.Generator().manual_seed(derived)


def test_the_same_seed_makes_the_same_case(tiny):
    first, again, other = case_of(tiny), case_of(tiny), case_of(tiny, seed=4)
    assert torch.equal(first.args["input"], again.args["input"])
    assert torch.equal(first.expected["out"], again.expected["out"])
    assert not torch.equal(first.args["input"], other.args["input"])


def test_a_shared_seed_leaves_the_values_their_own():
    task = load_task("gqa_decode")
    cases = [case_of(task, seed=seed, shared_seed=7, oracle=False) for seed in (1, 2)]
    lengths = [_lengths(task, case) for case in cases]
    assert lengths[0] == lengths[1]
    assert not torch.equal(cases[0].args["q"], cases[1].args["q"])
    other = case_of(task, seed=1, shared_seed=8, oracle=False)
    assert _lengths(task, other) != lengths[0]


def _lengths(task, case):
    pages = case.args["kv_indptr"].diff().tolist()
    return sorted((p - 1) * case.workload.sizes["page"] + last for p, last in zip(pages, case.args["last_page_len"].tolist(), strict=True))


def test_the_empty_regime_has_no_rows():
    for name in ("rms_norm", "gqa_decode", "fused_experts"):
        task = load_task(name)
        empty = completed(task, task.smoke_workload("cpu"), Regime.EMPTY)
        assert empty.sizes[task.batch] == 0
        case = case_of(task, Regime.EMPTY)
        assert all(case.expected[arg.name].numel() == 0 for arg in task.outputs)


def test_without_an_oracle_nothing_is_expected(tiny):
    assert case_of(tiny, oracle=False).expected == {}
    assert set(case_of(tiny).expected) == {"out"}


def test_a_case_says_what_it_is(tiny):
    assert case_of(tiny, Regime.NORMAL).describe() == "whole (T=16, H=64; float32; normal)"


BROKEN = {
    "oracle_raises": ('return {"out": args', 'raise RuntimeError("no oracle today"); return {"out": args', "RuntimeError: no oracle today"),
    "oracle_shape": ('args["input"].double()', 'args["input"].double()[:1]', r"must have shape \(16, 64\), it has \(1, 64\)"),
    "oracle_rank": ('args["input"].double()', 'args["input"].double()[None]', r"it has \(1, 16, 64\)"),
    "oracle_dtype": ('.double() * args["weight"].double()', ' * args["weight"]', "must be float64, it is torch.float32"),
    "oracle_key": ('return {"out"', 'return {"aus"', r"oracle\(\) returns no 'out'"),
    "inputs_key": ('"weight": draw', '"gain": draw', "KeyError: 'weight'"),
    "inputs_shape": ("draw.parameter(shape[1:]", "draw.parameter((1,)", r"inputs\(\)\['weight'\] must have shape \(64,\), it has \(1,\)"),
    "inputs_dtype": ("draw.parameter(shape[1:], dtype)", "draw.parameter(shape[1:], torch.float64)", "must be float32"),
    "inputs_raise": ("def inputs(self, workload, draw):", "def inputs(self, workload, draw):\n            1 / 0", "ZeroDivisionError"),
    "inputs_number": ('"input": draw.activation(shape, dtype)', '"input": 3.0', "AttributeError|must be a tensor"),
    "unknown_size": ('Output("out", "T", "H")', 'Output("out", "T", "W")', "cannot evaluate 'W'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_task_that_breaks_its_signature_is_a_fault(name, tmp_path, task_files, monkeypatch):
    find, replace, sentence = BROKEN[name]
    source = task_files.texts["task"]
    assert find in source
    task_files(tmp_path / f"case_{name}", task=source.replace(find, replace))
    monkeypatch.setenv("FASTKERNELS_ENV_PATH", str(tmp_path))
    with pytest.raises(JudgeFault, match=f"(?s)task 'case_{name}' is broken on whole.*({sentence})"):
        case_of(load_task(f"case_{name}"))


def test_the_task_that_they_were_made_from_is_not_broken(tiny):
    case = case_of(tiny)
    torch.testing.assert_close(case.expected["out"], (case.args["input"].double() * case.args["weight"].double() * 1.5))
