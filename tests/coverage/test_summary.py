"""From modelled times to covered architectures."""

import pytest

from fastkernels_env.coverage.measured import Measured
from fastkernels_env.coverage.summary import covered_share, is_covered, summarise


def measured(name, category="llm", problem="", **seconds):
    return Measured(name=name, model_type=name, category=category, problem=problem, seconds=seconds)


def test_nine_tenths_of_the_time_cover_an_architecture():
    assert is_covered(measured("a", norm=9.0, linear=1.0), {"norm"})
    assert not is_covered(measured("a", norm=8.9, linear=1.1), {"norm"})


def test_what_was_not_run_as_a_whole_is_not_covered():
    assert not is_covered(measured("a", problem="image: no", norm=1.0), {"norm"})
    assert covered_share(measured("a"), {"norm"}) == 0.0
    assert not is_covered(measured("a"), {"norm"})


def test_a_summary_counts_by_category_and_says_what_is_missing():
    results = [
        measured("a", norm=1.0), measured("b", "vision", norm=0.5, conv=0.5), measured("c", "vision", conv=1.0),
        measured("d", "edge", problem="cannot be built"),
    ]
    summary = summarise(results, {"norm"})
    assert (summary.all.covered, summary.all.total, summary.all.failed) == (1, 4, 1)
    assert {t.category: (t.covered, t.total) for t in summary.categories if t.total} == {"llm": (1, 1), "vision": (0, 2), "edge": (0, 1)}
    [missing] = summary.missing
    assert (missing.task, missing.architectures, missing.decides) == ("conv", 2, 2)
    assert missing.share == pytest.approx(0.5)
    assert summary.order == (("conv", 3),)
    assert summary.failures == {"d": "cannot be built"}


def test_the_order_goes_on_where_no_task_alone_suffices():
    order = summarise([measured("a", x=0.5, y=0.5)], set()).order
    assert [done for _, done in order] == [0, 1]
    assert {task for task, _ in order} == {"x", "y"}
