"""A fleet on a real Ray cluster of several nodes on this machine: every reply gets one verdict, whatever dies on the way."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

import gymnasium
import pytest
import ray
from ray.cluster_utils import Cluster

from fastkernels_env import read_log
from fastkernels_env.fleet import Fleet
from fastkernels_env.fleet.actor import pack
from fastkernels_env.registry import _registered, load_task, register_task
from fastkernels_env.sandbox import tree
from fastkernels_env.types import Item, Outcome

FORGETFUL = "```python\ndef rms_norm(out, input, weight, epsilon):\n    pass  # {}\n```"
SLOW = "```python\nimport time\n\n\ndef rms_norm(out, input, weight, epsilon):\n    time.sleep(0.2)  # {}\n```"


@pytest.fixture(scope="module")
def cluster(host_cache):
    """A head without cores and two nodes of two cores each."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        made.add_node(num_cpus=2)
    made.wait_for_nodes()
    ray.init(address=made.address, log_to_driver=False, logging_level="error")
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def fleet(cluster, tmp_path):
    with Fleet(device="cpu", effort="quick", log=tmp_path / "log.jsonl") as made:
        made.wait(2)
        yield made


def judge(fleet, items, each=lambda answer: None):
    async def collect():
        answers = []
        async for answer in fleet.evaluate_many(items):
            answers.append(answer)
            each(answer)
        return answers

    return asyncio.run(collect())


def actors():
    """Process ids of the actors, found by what Ray calls them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes().startswith(b"ray::Judges"):
                found.append(int(path.parent.name))
    return found


def test_an_honest_reply_is_judged_as_a_local_one_is(fleet):
    assert fleet.device == "cpu"
    assert fleet.judges == 4
    evaluation = fleet.evaluate("rms_norm", load_task("rms_norm").seeds()["cpu.cpp"])
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason
    assert evaluation.device.name == fleet.facts()[0].device.name
    assert [record.id for record in read_log(fleet.log)] == [evaluation.id]


def test_a_task_that_no_host_has_travels_with_the_reply(fleet, tmp_path, task_files):
    folder = task_files(tmp_path / "travelling_scale")
    register_task(folder)
    try:
        future = fleet.submit("travelling_scale", (folder / "seeds" / "cpu.cpp").read_text())
        folder.rename(tmp_path / "gone")
        assert future.result().outcome is Outcome.ACCEPTED, future.result().reason
    finally:
        del _registered["travelling_scale"]


def test_the_same_files_are_packed_the_same(tmp_path, task_files):
    one, other = task_files(tmp_path / "a" / "tiny_scale"), task_files(tmp_path / "b" / "tiny_scale")
    assert pack(one) == pack(other)


def test_whatever_dies_every_reply_gets_one_verdict(cluster, fleet):
    """Judges, actors and a node, at work, one after the other."""
    node = cluster.add_node(num_cpus=2)
    items = [Item(task="rms_norm", text=(SLOW if number % 4 == 0 else FORGETFUL).format(number)) for number in range(24)]
    killed = []

    def kill(answer):
        number = len(killed)
        if number < 2:  # a judge of an actor
            judges = [pid for actor in actors() for pid in tree.descendants(actor) if len(tree.descendants(pid)) > 3]
            killed.append(judges[:1])
            for pid in judges[:1]:
                os.kill(pid, signal.SIGKILL)
        elif number == 6:
            killed.append(actors()[:1])
            os.kill(killed[-1][0], signal.SIGKILL)
        elif number == 12:
            killed.append([node])
            cluster.remove_node(node, allow_graceful=False)
        else:
            killed.append([])

    answers = judge(fleet, items, kill)
    assert sorted(answer.index for answer in answers) == list(range(24))
    assert {answer.evaluation.outcome for answer in answers} == {Outcome.WRONG}
    assert len({record.id for record in read_log(fleet.log)}) == 24
    assert sorted(record.text for record in read_log(fleet.log)) == sorted(item.text for item in items)
    assert len(killed) > 12


def test_a_vector_environment_on_the_cluster(cluster):
    envs = gymnasium.make_vec("FastKernels/rms_norm-v0", num_envs=3, device="cpu", effort="quick", executor="ray")
    envs.reset(seed=0)
    _, _, terminated, _, infos = envs.step([FORGETFUL.format(number) for number in range(3)])
    envs.close()
    assert terminated.all()
    assert infos["final_info"]["outcome"].tolist() == ["wrong"] * 3


def test_a_fleet_that_is_closed_leaves_no_actor(cluster, tmp_path):
    with Fleet(device="cpu", effort="quick") as made:
        made.wait(1)
        assert actors()
    for _ in range(100):
        if not actors():
            break
        asyncio.run(asyncio.sleep(0.1))
    assert not actors()


def test_a_cluster_without_gpus_says_so(cluster):
    with pytest.raises(Exception, match="expected a cluster with GPUs, this one has none"):
        Fleet(device="cuda")


def test_the_library_does_without_ray():
    code = "import sys; sys.modules['ray'] = None; import fastkernels_env, fastkernels_env.cli, fastkernels_env.vector"
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0
