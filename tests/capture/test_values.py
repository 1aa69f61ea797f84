"""Statistics of values: the skew of a routing is found again, page tables and outliers are told."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fastkernels_env.capture import values
from fastkernels_env.recipes import Draw
from fastkernels_env.types import Regime


@pytest.mark.parametrize("tokens", [4, 64, 400])
@pytest.mark.parametrize("zipf", [0.0, 0.6, 1.2])
def test_the_skew_that_tasks_draw_with_is_found_again(tokens, zipf):
    shares = []
    for seed in range(max(6, 800 // tokens)):
        ids, _ = Draw(seed, seed, Regime.REALISTIC, "cpu").routing(tokens, 64, 4, zipf)
        shares.append(values.hot_share(values.routing(ids, 64)))
    found = values.fit_zipf(sum(shares) / len(shares), tokens, 64, 4)
    assert found == pytest.approx(zipf, abs=0.2)


def test_the_histogram_of_a_routing_is_by_rank():
    assert values.routing(torch.tensor([[3, 1], [3, 0], [3, 1]]), 5) == [3, 2, 1, 0, 0]


def test_page_tables():
    table = torch.tensor([[4, 5, 6, -1], [9, 2, -1, -1]])
    assert values.pages(table) == {"entries": 5.0, "distinct": 5.0, "adjacent": 0.5}
    assert values.pages(torch.tensor([-1])) == {"entries": 0.0, "distinct": 0.0, "adjacent": 0.0}


def test_outliers_are_counted():
    x = torch.ones(1000)
    x[:2] = 50
    assert values.summary(x)["outliers"] == pytest.approx(0.002)
    assert values.summary(torch.empty(0, 4)) == {}


def test_only_tensors_with_values_are_real():
    assert values.is_real(torch.ones(2))
    assert values.is_real(torch.nn.Parameter(torch.ones(2)))
    assert not values.is_real(torch.ones(2, device="meta"))
    with FakeTensorMode():
        assert not values.is_real(torch.ones(2))


@pytest.mark.parametrize(("name", "kind"), [
    ("topk_ids", "routing"), ("cu_seqlens_q", "offsets"), ("kv_indptr", "offsets"), ("block_tables", "pages"), ("slot_mapping", "pages"),
    ("seq_lens", "lengths"), ("input_ids", ""),
])
def test_names_of_integer_arguments(name, kind):
    assert values.kind_of(name) == kind
