"""Native code is compiled on cores that no judge has, and only what the judging host would make itself is judged."""

from __future__ import annotations

import msgspec
import pytest
import ray

from fastkernels_env import Evaluator
from fastkernels_env.build import Build, probe_containment
from fastkernels_env.builds import KeptBuilds, key_of
from fastkernels_env.fleet import Fleet
from fastkernels_env.fleet.builds import Made, adopt
from fastkernels_env.fleet.nodes import cores_per_gpu
from fastkernels_env.journal import Entry
from fastkernels_env.pool.frames import Order
from fastkernels_env.registry import load_task
from fastkernels_env.submission import extract
from fastkernels_env.types import Context, Outcome

SEED = load_task("rms_norm").seeds()["cpu.cpp"]
needs_containment = pytest.mark.skipif(
    bool(probe_containment().missing), reason="this host lacks a layer of containment: nothing that was built is kept or used"
)


def cpp(comment, code=SEED):
    return f"```cpp\n// {comment}\n{code}\n```"


def submission(text):
    return extract(text, load_task("rms_norm"), "cpu")


def order(text):
    return msgspec.msgpack.encode(Order.of(Entry(task="rms_norm", text=text, seed=0, effort="quick", context=Context(), prompt_hash="")))


def made(key, text):
    with Build(submission(text)) as build:
        build.result()
        return msgspec.msgpack.encode(Made(key, build._built.read_bytes(), b""))


@pytest.fixture(scope="module")
def cluster(cluster_of):
    """A host with cores for a judge and one to spare, and one that is too small for a judge."""
    return cluster_of(3, 1)


@pytest.fixture(scope="module")
def fleet(cluster):
    with Fleet(device="cpu", effort="quick", judges=1) as fleet:
        fleet.wait(1)
        yield fleet


def test_cores_that_are_too_few_for_a_judge_start_none(fleet):
    assert len(fleet._fleet._actors) == 1


@needs_containment
def test_native_code_is_compiled_where_no_judge_is(fleet):
    before = fleet.builds
    futures = [fleet.submit("rms_norm", cpp(f"elsewhere {number}")) for number in range(2)]
    assert {future.result().outcome for future in futures} == {Outcome.ACCEPTED}, [future.result().reason for future in futures]
    assert fleet.builds == before + 2


def test_python_is_not_compiled(fleet):
    before = fleet.builds
    evaluation = fleet.evaluate("rms_norm", "```python\ndef rms_norm(out, input, weight, epsilon):\n    pass\n```")
    assert (evaluation.outcome, fleet.builds) == (Outcome.WRONG, before)


def test_what_does_not_compile_is_found_where_it_is_judged(fleet):
    before = fleet.builds
    evaluation = fleet.evaluate("rms_norm", cpp("broken", SEED.replace("{", "{ nonsense", 1)))
    assert (evaluation.outcome, fleet.builds) == (Outcome.BUILD_FAILED, before)
    assert "nonsense" in evaluation.build_log


def test_what_is_no_reply_is_rejected_where_it_is_judged(fleet):
    assert fleet.evaluate("rms_norm", "no code").outcome is Outcome.REJECTED


def test_a_reply_that_is_taken_back_while_it_is_compiled_is_forgotten(fleet):
    future = fleet.submit("rms_norm", cpp("unwanted"))
    assert future.cancel()
    assert fleet.evaluate("rms_norm", cpp("wanted")).outcome is Outcome.ACCEPTED
    assert not fleet._fleet._jobs


def test_a_core_that_somebody_else_has_taken_holds_nobody_up(fleet, monkeypatch):
    """The fleet looks every few seconds only, and may ask for a core that is taken by then."""
    monkeypatch.setattr("fastkernels_env.fleet.builds._PATIENCE", 1.0)

    @ray.remote(num_cpus=1)
    class Occupant:
        def here(self):
            return True

    occupants = [Occupant.remote() for _ in range(2)]
    assert all(ray.get([occupant.here.remote() for occupant in occupants]))
    before = fleet.builds
    fleet._fleet._builds.look(2.0)
    assert fleet.evaluate("rms_norm", cpp("held up")).outcome is Outcome.ACCEPTED
    assert fleet.builds == before
    for occupant in occupants:
        ray.kill(occupant)


@needs_containment
def test_what_came_from_elsewhere_is_what_is_judged(tmp_path, monkeypatch):
    """Another code's build under this one's key: nobody makes such a thing, but it shows which of the two ran."""
    monkeypatch.setenv("FASTKERNELS_CACHE", str(tmp_path))
    text = cpp("judged")
    other = cpp("another", SEED.replace("+ epsilon)", "+ epsilon + 1.f)"))
    with Evaluator("cpu", effort="quick") as evaluator:
        evaluator.evaluate("rms_norm", cpp("first"))  # from here on this process knows that its folder is its own
        assert adopt(order(text), made(key_of(submission(text), link=True), other), "cpu")
        assert evaluator.evaluate("rms_norm", text).outcome is Outcome.WRONG


def test_what_was_made_with_something_else_is_not_kept(tmp_path, monkeypatch):
    text = cpp("judged")
    ours, other = made(key_of(submission(text), link=True), text), made("what another compiler made", text)
    monkeypatch.setenv("FASTKERNELS_CACHE", str(tmp_path))
    assert not adopt(order(text), other, "cpu")
    assert not adopt(order("no code"), ours, "cpu")
    assert not (tmp_path / "builds").exists()


@needs_containment
def test_a_process_that_does_not_trust_its_folder_uses_nothing_of_it(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTKERNELS_CACHE", str(tmp_path))
    text = cpp("judged")
    assert adopt(order(text), made(key_of(submission(text), link=True), text), "cpu")
    monkeypatch.setattr(KeptBuilds, "seen", None)
    with Build(submission(text)) as build:
        assert build._process is not None


@pytest.mark.parametrize(
    ("hosts", "cores"),
    [
        ([{"CPU": 16.0, "GPU": 1.0}], 16),
        ([{"CPU": 16.0, "GPU": 1.0}, {"CPU": 64.0}], 16),
        ([{"CPU": 32.0, "GPU": 2.0}, {"CPU": 128.0, "GPU": 4.0}], 16),
        ([{"CPU": 1.0, "GPU": 2.0}], 1),
    ],
)
def test_a_judge_of_a_gpu_has_the_cores_that_its_host_can_give(hosts, cores):
    assert cores_per_gpu([{"Resources": resources} for resources in hosts]) == cores
