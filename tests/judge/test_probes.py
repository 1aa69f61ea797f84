"""Probes over real workers: outputs that do not survive, answers that vary, inputs that do not count; and their honest twins."""

from __future__ import annotations

import random
from typing import ClassVar

import pytest
import torch

from fastkernels_env.judge.errors import JudgeFault
from fastkernels_env.judge.probes import Probe, probe_bases, small_batches
from fastkernels_env.registry import load_task, task_folders
from fastkernels_env.task import Cost, Input, Output, Scalar, Task, Weight, Workload

SOURCE = """
    #include <fastkernels.h>
    #include <cstring>
    #include <map>
    #include <set>
    #include <vector>

    enum Bug {
      NONE, KEEPS_ADDRESS, WRITES_LATER, ALTERNATES, ALTERNATES_LITTLE, DEPENDS_ON_ADDRESS, REMEMBERS_INPUT, REMEMBERS_WEIGHT,
      WRITES_BESIDE, WRITES_INPUT, WRONG_WHEN_LARGE, PACKS_BY_ADDRESS, WANTS_A_POISON, SKIPS_SEEN_BUFFERS, SKIPS_ANSWERED_BUFFERS
    };

    static int calls = 0;

    void varied(tvm::ffi::TensorView out, tvm::ffi::TensorView input, tvm::ffi::TensorView weight, int64_t mode) {
      const int64_t rows = input.size(0), width = input.size(1);
      float *x = fk::data<float>(input), *w = fk::data<float>(weight), *y = fk::data<float>(out);
      static float* earlier = nullptr;
      static std::vector<float> held, key;
      ++calls;
      if (mode == WANTS_A_POISON && y[0] < 1e29f) return;  // neither NaN nor large
      static std::set<std::pair<float*, float*>> seen;
      const bool known = !seen.insert({x, y}).second;
      if (mode == SKIPS_SEEN_BUFFERS && known) return;
      if (mode == SKIPS_ANSWERED_BUFFERS && known && y[0] < 1e29f) return;  // an answer lies there, no poison
      float scale = 1.f;
      if (mode == ALTERNATES) scale += calls % 2 ? 8e-6f : -8e-6f;
      if (mode == ALTERNATES_LITTLE) scale += calls % 2 ? 1e-6f : -1e-6f;
      if (mode == DEPENDS_ON_ADDRESS) scale += reinterpret_cast<uintptr_t>(y) / 4096 % 2 ? 8e-6f : -8e-6f;
      if (mode == REMEMBERS_WEIGHT) {
        if (key.empty()) key.assign(w, w + width);
        w = key.data();
      }
      if (mode == PACKS_BY_ADDRESS) {
        static std::map<float*, std::vector<float>> packed;
        std::vector<float>& own = packed[w];
        if (own.empty()) own.assign(w, w + width);
        w = own.data();
      }
      for (int64_t i = 0; i < rows * width; ++i) y[i] = x[i] * w[i % width] * scale;
      if (mode == WRONG_WHEN_LARGE && rows != 1) y[0] += 1;
      if (mode == REMEMBERS_INPUT) {  // looks at the first row only
        if (key.size() == size_t(rows * width) && !std::memcmp(key.data(), x, width * 4)) std::memcpy(y, held.data(), held.size() * 4);
        key.assign(x, x + rows * width);
        held.assign(y, y + rows * width);
      }
      if (mode == WRITES_LATER && earlier) earlier[0] = 3;
      if (mode == KEEPS_ADDRESS && earlier) std::memcpy(earlier, y, width * 4);
      if (!earlier) earlier = y;
      if (mode == WRITES_BESIDE) y[rows * width] = 1;
      if (mode == WRITES_INPUT) x[0] = 1;
    }
"""
BUGS = {name.strip(): number for number, name in enumerate(SOURCE.partition("enum Bug {")[2].partition("}")[0].split(","))}
BASE = Workload(name="base", device="cpu", dtype="float32", sizes={"T": 64, "H": 48})


class Varied(Task):
    """Multiplies every column by its weight."""

    entry = "varied"
    signature = (Output("out", "T", "H"), Input("input", "T", "H"), Weight("weight", "H"), Scalar("mode", "int"))
    ragged: ClassVar = {"cpu": {"T": (1, 64)}}
    mode = 0

    def inputs(self, workload, draw):
        shape = (workload.sizes["T"], workload.sizes["H"])
        return {"input": draw.activation(shape, torch.float32), "weight": draw.parameter(shape[1:], torch.float32), "mode": self.mode}

    def oracle(self, args):
        return {"out": args["input"].double() * args["weight"].double()}

    def cost(self, workload, args):
        return Cost(1, 1)


def make(tmp_path, bug="NONE", **changed):
    task = type("Changed", (Varied,), {"mode": BUGS[bug], **changed})()
    task.folder = tmp_path
    return task


@pytest.fixture(scope="module")
def library(built, tmp_path_factory):
    return built(make(tmp_path_factory.mktemp("task")), SOURCE)


@pytest.fixture
def probe(on_worker, library, tmp_path):
    """Findings of a probe on the library with a bug."""

    def run(bug="NONE", seed=3, limits=lambda case: {}, **changed):
        drawn = Probe(make(tmp_path, bug, **changed), BASE, seed, "cpu", "cpu")
        return on_worker(library, drawn.layout.size, lambda session, arena, device: drawn.run(session, arena, device, 20.0, limits))

    return run


@pytest.mark.parametrize("bug", ["NONE", "ALTERNATES_LITTLE"])
@pytest.mark.parametrize("seed", range(3))
def test_an_honest_kernel_passes(probe, bug, seed):
    found = probe(bug, seed)
    assert found[:6] == ("", "", "", "", "", "")
    where_it_lies = "one element of 'input' where it lies"
    assert found.changes == ("one element of 'input'", "one element of 'weight'", where_it_lies, "the weights where they lie")


@pytest.mark.parametrize("bug", ["WRITES_LATER", "KEEPS_ADDRESS"])
def test_outputs_must_survive_later_calls(probe, bug):
    found = probe(bug)
    assert "out of a call changed while later calls ran" in found.aliasing
    assert not found.wrong


@pytest.mark.parametrize("bug", ["ALTERNATES", "DEPENDS_ON_ADDRESS"])
def test_runs_may_not_differ_by_more_than_rounding(probe, bug):
    found = [probe(bug, seed) for seed in range(4)]
    assert any("on equal inputs out differs from run to run: " in one.determinism for one in found)
    assert not any(one.wrong or one.aliasing for one in found)


def test_bits_must_be_equal_only_where_the_task_promises_it(probe):
    assert probe("ALTERNATES_LITTLE").determinism == ""
    found = [probe("ALTERNATES_LITTLE", seed, deterministic=True) for seed in range(4)]
    assert any("the task promises equal bits" in one.determinism for one in found)
    assert probe("NONE", deterministic=True).determinism == ""


@pytest.mark.parametrize(("bug", "name"), [("REMEMBERS_INPUT", "input"), ("REMEMBERS_WEIGHT", "weight")])
def test_every_element_counts(probe, bug, name):
    found = [probe(bug, seed) for seed in range(6)]
    said = f"out does not follow a change of one element of '{name}': 100% of the movement is missing"
    assert any(said in one.perturbation for one in found)


def test_weights_may_be_replaced_where_they_lie(probe):
    """Packing them again is what `prepare` is for; see the twin `prepared_weight` of the threat suite."""
    for seed in range(3):
        found = probe("PACKS_BY_ADDRESS", seed)
        assert found.perturbation.startswith("out does not follow a change of the weights where they lie: ")
        assert (found.wrong, found.aliasing, found.determinism) == ("", "", "")


@pytest.mark.parametrize("bug", ["SKIPS_SEEN_BUFFERS", "SKIPS_ANSWERED_BUFFERS"])
def test_a_call_that_comes_again_in_the_same_buffers_is_a_new_call(probe, bug):
    for seed in range(3):
        found = probe(bug, seed)
        assert found.perturbation.startswith("out does not follow a change of one element of 'input' where it lies: ")
        assert (found.wrong, found.aliasing, found.determinism) == ("", "", "")


def test_what_a_probe_touches_is_seen(probe):
    assert "bytes after 'out'" in probe("WRITES_BESIDE").canary
    assert probe("WRITES_INPUT").mutated == "input"


def test_a_case_that_is_wrong_by_itself_says_so_and_nothing_else(probe):
    found = probe("WRONG_WHEN_LARGE")
    assert "out: " in found.wrong
    assert "probe-1 (T=" in found.wrong
    assert (found.determinism, found.perturbation) == ("", "")


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_call_may_not_need_a_poison_in_its_outputs(probe, seed):
    found = probe("WANTS_A_POISON", seed=seed)
    assert "where its outputs held values like any other's before" in found.wrong


def test_the_limits_of_a_baseline_are_asked_for_only_where_a_case_fails(probe):
    asked = []
    found = probe("NONE", limits=lambda case: asked.append(case) or {})
    assert found[:4] == ("", "", "", "")
    assert not asked
    found = probe("ALTERNATES", limits=lambda case: asked.append(case) or {"out": 1e-4})
    assert found[:4] == ("", "", "", "")
    assert asked


def test_the_same_seed_makes_the_same_probe(tmp_path):
    one, same, other = (Probe(make(tmp_path), BASE, seed, "cpu", "cpu") for seed in (3, 3, 4))
    assert one.layout == same.layout != other.layout
    assert torch.equal(one.first.args["input"], same.first.args["input"])
    changed = [probe.changes[0].case.args["input"] for probe in (one, same)]
    assert torch.equal(*changed)
    assert int((changed[0] != one.first.args["input"]).sum()) == 1


def test_a_hook_that_raises_is_a_fault_of_the_task(tmp_path):
    broken = make(tmp_path, perturbed=lambda self, args, rng: 1 / 0)
    with pytest.raises(JudgeFault, match=r"is broken on probe-1 .*when its inputs are changed: ZeroDivisionError"):
        Probe(broken, BASE, 3, "cpu", "cpu")


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name in task_folders() for kind in ("cpu", "cuda") if load_task(name).workloads(kind)]
)
def test_probes_are_small_and_of_two_sizes(name, kind):
    task = load_task(name)
    bases = probe_bases(task, task.workloads(kind), 2)
    assert len({base.name for base in bases}) == 2
    for seed in range(20):
        one, other = small_batches(task, bases[0], kind, random.Random(seed))
        assert 1 <= one <= 16
        assert 1 <= other <= 16
        assert one != other


@pytest.mark.sampled("name", take=12, most=4)
@pytest.mark.parametrize("name", task_folders())
def test_every_floating_point_argument_of_every_task_is_changed(name):
    task = load_task(name)
    base = probe_bases(task, task.workloads("cpu"), 1)[0]
    labels = {change.label for seed in range(3) for change in Probe(task, base, seed, "cpu", "cpu").changes}
    floats = [arg for arg in task.signature if arg.role in ("input", "inout", "weight") and "int" not in arg.dtype and arg.dtype != "bool"]
    wanted = {f"one element of {arg.name!r}" for arg in floats}
    if not task.measures:  # what moves nothing but an output with a measure of its own is seen by that
        assert wanted <= labels
    structured = ("rope", "gqa_decode", "moe_gemm", "fused_experts", "moe_dispatch", "embedding_bag_collection")
    assert labels - wanted or name not in structured
    assert not labels - wanted or type(task).perturbed is not Task.perturbed


@pytest.mark.sampled("name", take=12, most=4)
@pytest.mark.parametrize("name", task_folders())
def test_every_task_has_an_input_that_changes_where_it_lies(name):
    task = load_task(name)
    assert all(Probe(task, base, 3, "cpu", "cpu").in_place for base in probe_bases(task, task.workloads("cpu"), 2))
