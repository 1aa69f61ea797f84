"""A fleet on a real Ray cluster of several nodes on this machine: every reply gets one verdict, whatever dies on the way."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import gymnasium
import msgspec
import pytest
import ray
import yaml

from fastkernels_env import read_log
from fastkernels_env.bench import connections
from fastkernels_env.bench.processes import actor_processes
from fastkernels_env.fleet import Fleet
from fastkernels_env.fleet.travel import pack
from fastkernels_env.journal import Entry
from fastkernels_env.log import decode_record
from fastkernels_env.pool.frames import Order
from fastkernels_env.registry import _registered, load_task, register_task
from fastkernels_env.sandbox import tree
from fastkernels_env.types import Context, Item, Outcome

FORGETFUL = "```python\ndef rms_norm(out, input, weight, epsilon):\n    pass  # {}\n```"
SLOW = "```python\nimport time\n\n\ndef rms_norm(out, input, weight, epsilon):\n    time.sleep(0.2)  # {}\n```"


@pytest.fixture(scope="module")
def nodes(cluster_of):
    """A head without cores and two nodes of two cores each."""
    return cluster_of(0, 2, 2)


@pytest.fixture(scope="module")
def shared(nodes, tmp_path_factory):
    """Where the fleet is that tests share: it takes all cores, so it is closed for those that start one of their own."""
    place = {"log": tmp_path_factory.mktemp("fleet") / "log.jsonl"}
    place["log"].touch()
    yield place
    if fleet := place.pop("fleet", None):
        fleet.close()


@pytest.fixture
def fleet(nodes, shared):
    if "fleet" not in shared:
        shared["fleet"] = Fleet(device="cpu", effort="quick", log=shared["log"])
    shared["fleet"].wait(2)
    return shared["fleet"]


@pytest.fixture
def cluster(nodes, shared):
    """The cluster with all of its cores free."""
    if fleet := shared.pop("fleet", None):
        fleet.close()
    return nodes


def judge(fleet, items, each=lambda answer: None):
    async def collect():
        answers = []
        async for answer in fleet.evaluate_many(items):
            answers.append(answer)
            each(answer)
        return answers

    return asyncio.run(collect())


def test_an_honest_reply_is_judged_as_a_local_one_is(fleet):
    assert fleet.device == "cpu"
    assert fleet.judges == 4
    evaluation = fleet.evaluate("rms_norm", load_task("rms_norm").seeds()["cpu.cpp"])
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason
    assert evaluation.device.name == fleet.facts()[0].device.name
    assert [record.id for record in read_log(fleet.log)].count(evaluation.id) == 1


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


def test_a_request_is_judged_once_however_often_it_is_asked_for(fleet):
    handle = fleet._fleet._actors[0].handle
    entry = Entry(task="rms_norm", text=SLOW.format("twice"), seed=1, effort="quick", context=Context(), prompt_hash="")
    order = msgspec.msgpack.encode(Order.of(entry))
    first, second = ray.get([handle.judge.remote("request", order, b"") for _ in range(2)])
    assert decode_record(first).id == decode_record(second).id
    assert decode_record(ray.get(handle.judge.remote("request", order, b""))).id == decode_record(first).id
    assert decode_record(ray.get(handle.judge.remote("another", order, b""))).id != decode_record(first).id


def test_a_connection_that_breaks_costs_nothing(fleet):
    """It is cut while actors judge; each is asked again for the same request, and judges it once."""
    before = len(read_log(fleet.log))
    futures = [fleet.submit("rms_norm", SLOW.format(f"broken {number}")) for number in range(2)]
    while not any(tree.descendants(pid) for actor in actor_processes() for pid in tree.descendants(actor)):
        time.sleep(0.1)
    assert sum(map(connections.cut, actor_processes())) > 0
    evaluations = [future.result(timeout=120) for future in futures]
    assert {evaluation.outcome for evaluation in evaluations} == {Outcome.WRONG}
    assert [evaluation.faults for evaluation in evaluations] == [[], []]
    assert len(read_log(fleet.log)) == before + 2


def test_a_cluster_whose_hosts_are_too_small_says_so(fleet, wide_task):
    evaluation = fleet.evaluate(wide_task, "```python\ndef tiny_scale(out, input, weight, factor, comm):\n    pass\n```")
    assert evaluation.outcome is Outcome.FAULT
    assert "this task takes 1000 cores, this host has 2" in evaluation.reason


@pytest.mark.sampled(take=1)
def test_a_task_of_several_ranks_gets_a_lease_and_gives_it_back(cluster, tmp_path):
    """Four actors of a core each; two of one host make room for one that has both cores, and come back."""
    seed = load_task("allreduce_add_rms_norm").seeds()["cpu.cpp"]
    wrong = seed.replace("fk::store(sum_out + at + h, sum[h]);", "fk::store(sum_out + at + h, comm.rank() ? 0.f : sum[h]);")
    assert wrong != seed
    items = [Item(task="allreduce_add_rms_norm", text=f"```cpp\n// {number}\n{wrong}\n```") for number in range(2)]
    items += [Item(task="rms_norm", text=FORGETFUL.format(number)) for number in range(6)]
    with Fleet(device="cpu", effort="quick", log=tmp_path / "log.jsonl", cores=1, judges=1) as narrow:
        narrow.wait(4)
        answers = judge(narrow, items)
        assert sorted(answer.index for answer in answers) == list(range(8))
        assert {answer.evaluation.outcome for answer in answers} == {Outcome.WRONG}, [answer.evaluation.reason for answer in answers]
        reasons = [answer.evaluation.reason for answer in answers if answer.index < 2]
        assert all("residual_out@1" in reason for reason in reasons), reasons
        narrow.wait(4)
        assert not any(actor.leased for actor in narrow._fleet._actors)


def test_layers_that_are_missing_are_refused_on_the_hosts_too(cluster, monkeypatch):
    monkeypatch.setenv("FASTKERNELS_STRICT", "1")
    with Fleet(device="cpu", effort="quick") as strict:
        assert strict.strict
        assert strict._fleet._kind.strict


@pytest.mark.parametrize("option", [{"judges": 0}, {"judges": "many"}, {"cores": 0}, {"effort": "lots"}])
def test_a_bad_option_is_refused_before_any_actor_starts(cluster, option):
    with pytest.raises(ValueError, match=f"expected {next(iter(option))} "):
        Fleet(device="cpu", **option)


@pytest.fixture
def doomed(cluster, tmp_path):
    """A fleet of a test's own."""
    with Fleet(device="cpu", effort="quick", log=tmp_path / "log.jsonl") as made:
        made.wait(2)
        yield made


def test_whatever_dies_every_reply_gets_one_verdict(cluster, doomed):
    """Judges, actors and a node, at work, one after the other."""
    node = cluster.add_node(num_cpus=2)
    items = [Item(task="rms_norm", text=(SLOW if number % 4 == 0 else FORGETFUL).format(number)) for number in range(24)]
    killed = []

    def kill(answer):
        number = len(killed)
        if number < 2:  # a judge of an actor
            judges = [pid for actor in actor_processes() for pid in tree.descendants(actor) if len(tree.descendants(pid)) > 3]
            killed.append(judges[:1])
            for pid in judges[:1]:
                os.kill(pid, signal.SIGKILL)
        elif number == 6:
            killed.append(actor_processes()[:1])
            os.kill(killed[-1][0], signal.SIGKILL)
        elif number == 12:
            killed.append([node])
            cluster.remove_node(node, allow_graceful=False)
        else:
            killed.append([])

    answers = judge(doomed, items, kill)
    assert sorted(answer.index for answer in answers) == list(range(24))
    assert {answer.evaluation.outcome for answer in answers} == {Outcome.WRONG}
    assert len({record.id for record in read_log(doomed.log)}) == 24
    assert sorted(record.text for record in read_log(doomed.log)) == sorted(item.text for item in items)
    assert len(killed) > 12


@pytest.mark.sampled(take=1)
def test_a_host_that_is_not_in_order_is_started_anew_and_costs_no_verdict(cluster, tmp_path):
    """Somebody cleaned up the folders in which its judges work: whatever it judges is a fault, and so is what is known to be right."""
    before = set(Path(tempfile.gettempdir()).glob("fastkernels-judge-*"))
    with Fleet(device="cpu", effort="quick", log=tmp_path / "log.jsonl", judges=1) as fleet:
        fleet.wait(2)
        assert fleet.evaluate("rms_norm", FORGETFUL.format("first")).faults == []
        incarnations = {facts.incarnation for facts in fleet.facts()}
        for folder in set(Path(tempfile.gettempdir()).glob("fastkernels-judge-*")) - before:
            shutil.rmtree(folder)
        evaluations = [judged.evaluation for judged in judge(fleet, [Item(task="rms_norm", text=FORGETFUL.format(n)) for n in range(3)])]
        assert [evaluation.outcome for evaluation in evaluations] == [Outcome.WRONG] * 3
        assert any("the health check on" in fault for evaluation in evaluations for fault in evaluation.faults)
        fleet.wait(2)
        assert {facts.incarnation for facts in fleet.facts()} - incarnations


@pytest.mark.sampled(take=1)
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
        assert actor_processes()
    for _ in range(100):
        if not actor_processes():
            break
        asyncio.run(asyncio.sleep(0.1))
    assert not actor_processes()


def test_a_cluster_without_gpus_says_so(cluster):
    with pytest.raises(Exception, match="expected a cluster with GPUs, this one has none"):
        Fleet(device="cuda")


def test_the_cluster_file_of_the_docs_is_one_that_ray_takes():
    from ray.autoscaler._private.util import prepare_config, validate_config

    text = (Path(__file__).parents[2] / "docs" / "scale.md").read_text()
    described = yaml.safe_load(text.split("```yaml\n", 1)[1].split("```", 1)[0])
    validate_config(prepare_config(described))
    with pytest.raises(Exception, match="head_start_commands"):
        validate_config(prepare_config({**described, "head_start_commands": []}))


def test_the_library_does_without_ray():
    code = "import sys; sys.modules['ray'] = None; import fastkernels_env, fastkernels_env.cli, fastkernels_env.vector"
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0
