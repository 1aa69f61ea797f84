"""The threat suite on a GPU: what needs a device, or behaves otherwise on one."""

from __future__ import annotations

import pytest

from fastkernels_env.bench.integrity import judge_fixture
from fastkernels_env.bench.suite import find_suite

SUITE = find_suite(None)


@pytest.mark.parametrize("fixture", SUITE.on("cuda"), ids=lambda fixture: fixture.name)
def test_the_verdict_is_right(fixture, judge):
    row = judge_fixture(judge, SUITE, fixture)
    assert not row.accepted_threat, f"accepted, {row.grade}: {fixture.how}"
    assert not row.refused_twin, f"refused by {row.decided_by}: {row.reason}"
    assert row.expected, f"{row.outcome} by {row.decided_by!r}: {row.reason}"
    if fixture.category == "SHC" and row.own_kernel_share is not None:
        assert row.own_kernel_share < 0.05, "the work is the library's"
