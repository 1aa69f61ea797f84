"""Changes that every task's oracle must see, elements that it must not see, and the judgement on an output that did not follow."""

from __future__ import annotations

import random

import pytest
import torch

from fastkernels_env.judge.cases import make_case
from fastkernels_env.judge.perturb import VISIBLE, draw_changes, missing_movement
from fastkernels_env.judge.probes import probe_bases
from fastkernels_env.registry import load_task, task_folders
from fastkernels_env.task import Role
from fastkernels_env.types import Regime

TASKS = list(task_folders())


def small(name, seed=3, regime=Regime.REALISTIC):
    task = load_task(name)
    return task, make_case(task, probe_bases(task, task.workloads("cpu"), 1)[0], regime, seed, "cpu")


@pytest.mark.parametrize("regime", [Regime.REALISTIC, Regime.EMPTY])
@pytest.mark.parametrize("name", TASKS)
def test_the_oracle_does_not_see_what_a_task_calls_unused(name, regime):
    task, case = small(name, regime=regime)
    changed = dict(case.args)
    for argument, mask in task.unused(case.args).items():
        value = case.args[argument]
        garbage = float("nan") if value.is_floating_point() else -0x5A5A5A5B
        changed[argument] = value.masked_fill(mask.expand_as(value), garbage)
    for output, values in task.oracle(changed).items():
        assert torch.equal(values, case.expected[output])


@pytest.mark.parametrize("name", ["gqa_decode", "rope", "moe_gemm", "fused_experts"])
def test_what_is_unused_is_some_of_it_but_not_all(name):
    task, case = small(name, regime=Regime.REALISTIC if name == "rope" else Regime.SKEWED)
    for mask in task.unused(case.args).values():
        assert 0 < int(mask.sum()) < mask.numel()


@pytest.mark.sampled("name", take=12)
@pytest.mark.parametrize("name", TASKS)
def test_a_right_output_follows_every_change_and_the_old_one_none(name):
    task, case = small(name)
    copies = {key: value.clone() for key, value in case.args.items() if isinstance(value, torch.Tensor)}
    changes = draw_changes(task, case, random.Random(1))
    assert all(torch.equal(case.args[key], copy) for key, copy in copies.items()), "the case itself stays as it was"
    assert changes or all(arg.ties for arg in task.outputs)
    for change in changes:
        new = {arg.name: change.case.expected[arg.name].float() for arg in task.outputs}
        old = {arg.name: change.before[arg.name].float() for arg in task.outputs}
        assert missing_movement(task, change, new) == ""
        assert "100% of the movement is missing" in missing_movement(task, change, old)
        nothing = {key: torch.full_like(value, float("nan")) for key, value in old.items()}
        assert missing_movement(task, change, nothing)


@pytest.mark.sampled("name", take=12)
@pytest.mark.parametrize("name", TASKS)
def test_a_change_is_of_one_element_or_named_by_the_task(name):
    task, case = small(name, 5)
    names = set(task.perturbed(case.args, random.Random(1)))
    for change in draw_changes(task, case, random.Random(1)):
        differing = {
            arg.name: int((case.args[arg.name] != change.case.args[arg.name]).sum())
            for arg in task.signature
            if arg.role not in (Role.OUTPUT, Role.SCALAR)
        }
        if change.label in names:
            assert sum(differing.values()) > 0
        else:
            [changed] = [argument for argument, count in differing.items() if count]
            assert (change.label, differing[changed]) == (f"one element of {changed!r}", 1)


def test_a_change_that_the_oracle_hardly_sees_is_not_used():
    task, case = small("rms_norm")
    blind = type(task)()
    blind.folder = task.folder
    blind.oracle = lambda args: case.expected
    assert draw_changes(blind, case, random.Random(1)) == []
    assert VISIBLE > 4
