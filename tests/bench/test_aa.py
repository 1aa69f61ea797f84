"""A/A runs: what single runs say, and what they say put together as profile stages."""

from __future__ import annotations

import pytest

from fastkernels_env.bench.aa_runs import Run, stages, summary

STEADY = [[1.001, 0.999, 1.0], [1.0, 1.002, 0.998]]


def run(number, workload, low=0.99, high=1.01, ratios=STEADY, **others):
    fields = {"task": "a", "device": "d", "created": "", "versions": {}, "baseline": "b", "effort": "full", "kind": "cuda",
              "estimate": (low * high) ** 0.5, "call_us": 30.0}
    return Run(number=number, workload=workload, low=low, high=high, ratios=ratios, **fields | others)


def row(text, name):
    line = next(line for line in text.splitlines() if line.startswith(f"| {name} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_stage_has_every_workload_once():
    runs = [run(number, "xyz"[number % 3]) for number in range(8)]
    assert len(stages(runs)) == 2


def test_runs_without_rounds_make_no_stage():
    assert stages([run(0, "x", ratios=[])]) == []


def test_a_stage_is_resolved_better_than_a_workload():
    one, four = (stages([run(n, f"w{n}") for n in range(count)])[0] for count in (1, 4))
    assert four.high - four.low < one.high - one.low


def test_a_workload_counts_by_its_time():
    slow = run(1, "y", ratios=[[2.0, 2.0, 2.0]], count=99)
    assert stages([run(0, "x"), slow])[0].estimate == pytest.approx(1.99, abs=0.01)


def test_the_table_counts_false_claims_of_both_kinds():
    runs = [run(0, "x"), run(1, "x", low=1.02, high=1.03), run(2, "x", low=0.95, high=0.96, ratios=[[0.8, 0.8, 0.8]])]
    name, baseline, _, count, covered, _, claim, whole, right, _, largest = row(summary(runs), "a")
    assert (name, baseline, count, covered, claim) == ("a", "b", "3", "1 (33%)", "4.17%")
    assert (whole, right) == ("3", "2 (67%)")
    assert float(largest.rstrip("%")) > 20
    assert row(summary(runs), "**all**")[3:5] == ["3", "1 (33%)"]
