"""Leases on a cluster of one small host: orders of several ranks and ordinary ones have to take turns there."""

from __future__ import annotations

import time

import pytest

from fastkernels_env import read_log
from fastkernels_env.fleet import Fleet
from fastkernels_env.registry import load_task
from fastkernels_env.types import Outcome

WIDE = "allreduce_add_rms_norm"
STORE = "fk::store(sum_out + at + h, sum[h]);"


@pytest.fixture(scope="module")
def cluster(cluster_of):
    return cluster_of(2)


def wrong(number):
    seed = load_task(WIDE).seeds()["cpu.cpp"]
    assert STORE in seed
    return f"```cpp\n// {number}\n{seed.replace(STORE, 'fk::store(sum_out + at + h, comm.rank() ? 0.f : sum[h]);')}\n```"


@pytest.mark.sampled("last", take=1)
@pytest.mark.parametrize(("turn", "last"), [(0.0, WIDE), (120.0, "rms_norm")])
def test_what_waits_beside_a_lease_has_its_turn(cluster, tmp_path, monkeypatch, turn, last):
    """The first lease's turn is over at once, or lasts; the turn of the others after it is long enough."""
    monkeypatch.setattr("fastkernels_env.fleet.lease._TURN_SECONDS", turn)
    with Fleet(device="cpu", effort="quick", log=tmp_path / "log.jsonl", cores=1, judges=1) as fleet:
        fleet.wait(2)
        futures = [fleet.submit(WIDE, wrong(number)) for number in range(3)]
        until = time.monotonic() + 60
        while not any(actor.leased for actor in fleet._fleet._actors):
            assert time.monotonic() < until, "no lease began"
            time.sleep(0.1)
        futures.append(fleet.submit("rms_norm", "```python\ndef rms_norm(out, input, weight, epsilon):\n    pass\n```"))
        assert {future.result().outcome for future in futures} == {Outcome.WRONG}
    records = read_log(tmp_path / "log.jsonl")
    assert [record.task for record in records].count(WIDE) == 3
    assert records[-1].task == last
