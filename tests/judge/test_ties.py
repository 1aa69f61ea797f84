"""Indices as outputs: whatever ties is right, and every other mistake is seen."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastkernels_env.judge.cases import make_case
from fastkernels_env.judge.errors import JudgeFault
from fastkernels_env.judge.ties import all_tied, compare_ids
from fastkernels_env.judge.verify import case_layout, smoke_case, verify_case
from fastkernels_env.task import Cost, Gate, Input, Output, Scalar, Task, Workload
from fastkernels_env.types import Regime

GATE = Gate(1e-5, 1e-3)


def scores(rows=20, candidates=50, seed=0):
    return torch.randn(rows, candidates, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=60)
@given(st.integers(1, 12), st.integers(1, 40), st.integers(0, 999), st.integers(1, 4))
def test_the_largest_in_any_order_are_right_whatever_ties(rows, candidates, seed, levels):
    k = max(1, candidates // 3)
    values = scores(rows, candidates, seed).mul(levels).round() / levels
    generator = torch.Generator().manual_seed(seed)
    for _ in range(3):
        shuffled = torch.randperm(candidates, generator=generator)
        ids = shuffled[values[:, shuffled].topk(k).indices[:, torch.randperm(k, generator=generator)]]
        assert compare_ids(ids.int(), values, GATE).ok


MISTAKES = {
    "the next best": lambda ids, order: ids.__setitem__((3, 7), order[3, 8]),
    "the next best for the best": lambda ids, order: ids.__setitem__((3, 0), order[3, 8]),
    "one twice": lambda ids, order: ids.__setitem__((3, 7), ids[3, 0]),
    "out of range": lambda ids, order: ids.__setitem__((3, 7), 50),
    "negative": lambda ids, order: ids.__setitem__((3, 7), -1),
    "another row's": lambda ids, order: ids.__setitem__(3, ids[4].clone()),
    "zeros": lambda ids, order: ids.zero_(),
    "the smallest": lambda ids, order: ids.copy_(order[:, -8:]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_every_mistake_is_seen(mistake):
    values = scores()
    order = values.argsort(1, descending=True)
    ids = order[:, :8].int()
    assert all_tied(ids, values, GATE)
    MISTAKES[mistake](ids, order.int())
    result = compare_ids(ids, values, GATE)
    assert not result.ok
    assert "elements are wrong" in result.describe()
    if mistake not in ("zeros", "the smallest"):
        assert result.worst.name == "row 3"


def test_scores_within_the_tolerance_tie_and_no_others():
    values = torch.tensor([[3.0, 2.0, 2.0 - 1e-3, 1.9]], dtype=torch.float64)
    assert all_tied(torch.tensor([[0, 2]]), values, GATE)
    assert not all_tied(torch.tensor([[0, 3]]), values, GATE)
    assert not all_tied(torch.tensor([[1, 2]]), values, GATE), "the clear winner is missing"


def test_shapes_must_fit():
    with pytest.raises(ValueError, match="expected indices of shape"):
        compare_ids(torch.zeros(3, 4, dtype=torch.int32), scores(5, 10), GATE)


SOURCE = """
    #include <fastkernels.h>
    #include <algorithm>
    #include <numeric>
    #include <vector>

    enum Bug { LOWEST_FIRST, HIGHEST_FIRST, REVERSED, ONE_TWICE, SECOND_BEST, MISSES_LAST_TILE, UNORDERED_FLOATS };

    void top_k(tvm::ffi::TensorView ids, tvm::ffi::TensorView logits, int64_t mode) {
      const int64_t rows = logits.size(0), count = logits.size(1), k = ids.size(1);
      const int64_t seen = mode == MISSES_LAST_TILE ? count / 16 * 16 : count;
      for (int64_t t = 0; t < rows; ++t) {
        const float* x = fk::data<float>(logits) + t * count;
        int32_t* y = fk::data<int32_t>(ids) + t * k;
        std::vector<int32_t> order(seen);
        std::iota(order.begin(), order.end(), 0);
        if (mode == HIGHEST_FIRST) std::reverse(order.begin(), order.end());
        std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return x[a] > x[b]; });
        std::copy(order.begin(), order.begin() + k, y);
        if (mode == REVERSED) std::reverse(y, y + k);
        if (mode == ONE_TWICE && t == rows / 2) y[k - 1] = y[0];
        if (mode == SECOND_BEST && t == rows / 2) y[0] = order[std::min<int64_t>(k + 20, seen - 1)];
        if (mode == UNORDERED_FLOATS) std::copy_n(order.end() - k, k, y);
      }
    }
"""
BUGS = {name.strip(): number for number, name in enumerate(SOURCE.partition("enum Bug {")[2].partition("}")[0].split(","))}


class TopK(Task):
    """Indices of the k largest of a row; a coarse grid makes many of them tie."""

    entry = "top_k"
    signature = (Output("ids", "T", "k", dtype="int32", ties="scores"), Input("logits", "T", "N"), Scalar("mode", "int"))
    ragged: ClassVar = {"cpu": {"T": (1, 64)}}
    mode = 0

    def inputs(self, workload, draw):
        logits = draw.normal((workload.sizes["T"], workload.sizes["N"]), torch.float32)
        return {"logits": logits.mul(8).round().div(8), "mode": self.mode}

    def oracle(self, args):
        scores = args["logits"].double()
        return {"ids": scores.topk(self.k).indices, "scores": scores}

    k = 6

    def cost(self, workload, args):
        return Cost(1, 1)


@pytest.fixture(scope="module")
def library(built, tmp_path_factory):
    task = TopK()
    task.folder = tmp_path_factory.mktemp("task")
    return built(task, SOURCE)


def judged(on_worker, library, tmp_path, bug, function):
    task = TopK()
    task.folder, task.mode = tmp_path, BUGS[bug]
    case = make_case(task, Workload(name="w", device="cpu", dtype="float32", sizes={"T": 40, "N": 90, "k": 6}), Regime.REALISTIC, 3, "cpu")
    nbytes = case_layout(task, case).size
    return on_worker(library, nbytes, lambda session, arena, device: function(session, arena, device, task, case, 20.0))


@pytest.mark.parametrize("bug", ["LOWEST_FIRST", "HIGHEST_FIRST", "REVERSED"])
def test_an_honest_kernel_is_right_whichever_way_it_breaks_ties(on_worker, library, tmp_path, bug):
    result = judged(on_worker, library, tmp_path, bug, verify_case)
    assert result.right, result.wrong
    assert judged(on_worker, library, tmp_path, bug, smoke_case) == ""


@pytest.mark.parametrize("bug", ["ONE_TWICE", "SECOND_BEST", "MISSES_LAST_TILE", "UNORDERED_FLOATS"])
def test_a_wrong_kernel_is_caught(on_worker, library, tmp_path, bug):
    result = judged(on_worker, library, tmp_path, bug, verify_case)
    assert "ids: " in result.wrong
    assert "elements are wrong, worst row" in result.wrong
    assert "elements are wrong" in judged(on_worker, library, tmp_path, bug, smoke_case)


def test_an_oracle_without_the_scores_is_a_fault(tmp_path):
    task = type("Broken", (TopK,), {"oracle": lambda self, args: {"ids": args["logits"].topk(6).indices}})()
    task.folder = tmp_path
    shape = Workload(name="w", device="cpu", dtype="float32", sizes={"T": 4, "N": 9, "k": 6})
    with pytest.raises(JudgeFault, match="returns no 'scores'"):
        make_case(task, shape, Regime.REALISTIC, 3, "cpu")
