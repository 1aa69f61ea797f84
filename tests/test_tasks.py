"""Every registered task: its folder is complete, its seed is accepted, its mutants are rejected.

What needs no process of its own is tried of every task. A run judges seeds and mutants of some (`sampling.py`), `make test-all` of all.
"""

from __future__ import annotations

import os
import secrets
import tomllib
import zlib

import pytest
import torch

from fastkernels_env import Outcome
from fastkernels_env.judge.cases import make_case
from fastkernels_env.judge.compare import compare
from fastkernels_env.judge.drill import Drill
from fastkernels_env.judge.verify import compare_output
from fastkernels_env.qualify.judging import judge_without_clock
from fastkernels_env.registry import load_task, task_folders
from fastkernels_env.spaces import seed_replies
from fastkernels_env.submission import extract
from fastkernels_env.task import Gate, Role, dtype_of, shape_of
from fastkernels_env.types import Regime

TASKS = list(task_folders())
DEVICES = ("cpu", "cuda")
NOT_YET_ON_A_GPU = {
    "activation", "adaln_modulate", "add_rms_norm_fp8", "axial_attention", "bias_attention", "conv1d", "conv1d_update", "conv2d_nhwc",
    "dlrm_interaction", "dwconv_bn_act", "embedding_bag_collection", "encoder_layer", "flux_block", "fp8_block_gemm", "gated_rms_norm",
    "gaussian_rasterize", "gdn_decode", "gelu_tanh_and_mul", "gqa_prefill", "group_norm_silu", "joint_attention", "kv_scatter",
    "layer_norm", "linear_prefill", "llama_decode_loop", "llama_decoder", "llama_mlp", "maxsim", "merge_states", "mla_decode", "moe_align",
    "moe_finalize", "ms_deform_attn", "oasis_block", "qk_norm_rope", "rope3d_attention", "se_grn", "segment_csr", "sink_attention",
    "ssm_update", "swin_window_attention", "topk_softmax", "triangle_mult", "vision_block", "vit_varlen_attention", "yolov10n",
}
"""Tasks whose seeds and baselines have not been judged on a GPU: they have no shapes there until they were."""
POOLS = {"state", "conv_state"}
"""In-out arguments of which a call writes the slots of its own sequences only."""
DTYPES = {"float32", "float64", "float16", "bfloat16", "int8", "uint8", "int16", "int32", "int64", "bool", "float8_e4m3fn"}


@pytest.fixture(params=TASKS)
def task(request):
    return load_task(request.param)


def small_case(task, regime=Regime.REALISTIC, **options):
    """A case of the smallest public CPU workload."""
    workload = min(task.workloads("cpu"), key=lambda w: task.complete(w.sizes).get(task.batch, 0))
    return make_case(task, workload, regime, 3, "cpu", **options)


# -- the folder ----------------------------------------------------------------------------------------------------------------


def test_there_are_tasks():
    assert "rms_norm" in TASKS


def test_the_folder_is_complete(task):
    files = {str(path.relative_to(task.folder)) for path in task.folder.rglob("*") if path.is_file()}
    wanted = {"task.py", "workloads.jsonl", "mutants.toml", "seeds/cpu.cpp"} | {f"baselines/{b.file}" for b in task.baselines}
    assert wanted <= files
    assert {"seeds/triton.py", "seeds/cuda.cu"} & files, "a seed for GPUs"
    used = {f"baselines/{b.file}" for b in task.baselines}
    assert {f for f in files if f.startswith("baselines/") and f.endswith(".py")} == used, "every baseline file is used"


def test_it_says_what_it_is(task):
    for text in (task.summary, task.semantics, task.mirrors, task.category):
        assert text.strip()
        assert not {"TODO", "FIXME", "XXX"} & set(text.split())
    assert task.architectures
    assert task.__doc__
    names = [arg.name for arg in task.signature]
    assert len(names) == len(set(names))
    for device in DEVICES:
        if task.workloads(device):
            assert any(device in b.devices for b in task.baselines)


@pytest.fixture(params=DEVICES)
def device(request, task):
    """A device of the task."""
    if request.param == "cuda" and task.folder.name in NOT_YET_ON_A_GPU:
        assert not task.workloads("cuda")
        pytest.skip("it has not been judged on a GPU yet")
    return request.param


def test_public_workloads(task, device):
    public = task.workloads(device)
    assert public
    assert len({w.name for w in public}) == len(public)
    assert sum(w.smoke for w in public) <= 1
    assert task.smoke_workload(device) in public
    for workload in public:
        assert workload.source.strip(), f"{workload.name} names no source"
        assert workload.count > 0
        sizes = task.complete(workload.sizes)
        assert sizes[task.batch] > 0
        for arg in task.signature:
            if arg.role is not Role.SCALAR:
                assert all(extent > 0 for extent in shape_of(arg, sizes)), (workload.name, arg.name)
                assert dtype_of(arg, workload) in DTYPES


def test_hidden_ranges_cover_the_batch(task, device):
    assert task.batch in task.ragged[device]
    for low, high in task.ragged[device].values():
        assert 1 <= low < high
    largest = max(w.sizes[task.batch] for w in task.workloads(device))
    low, high = task.ragged[device][task.batch]
    assert low < largest
    assert high >= min(w.sizes[task.batch] for w in task.workloads(device))


def test_there_is_a_gate_for_every_output(task):
    for device in DEVICES:
        for workload in task.workloads(device):
            for arg in task.outputs:
                dtype = dtype_of(arg, workload)
                if dtype.startswith(("float", "bfloat")):
                    assert arg.name in task.numerics.outputs or dtype in task.numerics.gates
                    assert dtype in task.numerics.smoke


# -- inputs, oracle, cost ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("regime", [Regime.NORMAL, Regime.REALISTIC, Regime.SKEWED, Regime.EMPTY])
def test_inputs_and_oracle_keep_the_signature(task, regime):
    if regime in (*task.regimes, Regime.NORMAL):
        case = small_case(task, regime)
        assert all(bool(values.isfinite().all()) for values in case.expected.values())


@pytest.mark.parametrize("name", ["encoder_layer", "vision_block", "vit_varlen_attention"])
def test_no_batch_of_the_gate_has_a_sequence_that_is_longer_than_it_says(name):
    """The gate keeps the numbers of its first case, whatever batch it draws."""
    drill = Drill(load_task(name), "cpu", "cpu", 3, keep_metadata=False)
    for size in (None, *drill.sizes):
        args = drill.case(f"size {size}", size, oracle=False).args
        assert int(args["cu_seqlens"].diff().max()) <= args["max_seqlen"], size


def test_the_oracle_reads_only(task):
    case = small_case(task)
    copies = {name: value.clone() for name, value in case.args.items() if isinstance(value, torch.Tensor)}
    again = task.oracle(case.args)
    for name, copy in copies.items():
        assert torch.equal(case.args[name], copy), f"the oracle mutates {name!r}"
    for name, values in again.items():
        assert torch.equal(values, case.expected[name]), "the oracle gives the same twice"


def test_the_oracle_depends_on_every_argument(task):
    case = small_case(task)
    for arg in task.signature:
        if arg.role in (Role.OUTPUT, Role.METADATA):
            continue
        value = case.args[arg.name]
        if isinstance(value, bool):
            changed = not value
        elif isinstance(value, torch.Tensor):
            if not value.is_floating_point():
                continue
            factors = torch.linspace(0.5, 1.5, value.numel() + 1)[1:].view(value.shape)  # a common one may cancel
            changed = (value.float() * factors).to(value.dtype)
        elif isinstance(value, float):
            changed = value * 1.5 + 1
        else:
            continue  # a size, which must fit the shapes
        other = task.oracle({**case.args, arg.name: changed})
        assert any(not torch.equal(other[key], values) for key, values in case.expected.items()), f"{arg.name!r} changes nothing"


def test_the_rounded_oracle_is_right_and_nearly_right_is_not(task):
    case = small_case(task)
    for arg in task.outputs:
        dtype = getattr(torch, dtype_of(arg, case.workload))
        rounded = case.expected[arg.name].to(dtype)
        assert compare_output(task, case, arg.name, rounded).ok
        if not dtype.is_floating_point:
            assert not compare(rounded + 1, case.expected[arg.name], Gate(0, 0), 0.0).ok
        else:
            if arg.name not in task.measures:
                assert not compare_output(task, case, arg.name, (case.expected[arg.name] * 1.02).to(dtype)).ok
            assert not compare_output(task, case, arg.name, torch.zeros_like(rounded)).ok


def test_cost_is_positive_and_at_least_the_outputs(task):
    case = small_case(task, oracle=False)
    cost = task.cost(case.workload, case.args)
    written = sum(
        torch.Size(shape_of(arg, case.workload.sizes)).numel() * getattr(torch, dtype_of(arg, case.workload)).itemsize
        for arg in task.outputs
        if arg.name not in POOLS
    )
    assert cost.bytes >= written / task.ranks
    assert cost.flops > 0
    assert (cost.link > 0) == (task.ranks > 1)
    assert isinstance(cost.bytes, int)
    assert isinstance(cost.flops, int)


HAND_COMPUTED = {
    # 16 rows of 2048 float32, read and written, and a weight of 2048; per element a square, a sum, a scale and a weight.
    ("rms_norm", "cpu-decode-16"): (2 * 16 * 2048 * 4 + 2048 * 4, 4 * 16 * 2048),
    # 16 rows of 2 x 14336 float32 read, 16 x 14336 written.
    ("silu_and_mul", "cpu-decode-16"): (3 * 16 * 14336 * 4, None),
}


@pytest.mark.parametrize(("name", "workload"), HAND_COMPUTED)
def test_cost_by_hand(name, workload):
    task = load_task(name)
    public = next(w for w in task.workloads("cpu") if w.name == workload)
    case = make_case(task, public, Regime.REALISTIC, 3, "cpu", oracle=False)
    nbytes, flops = HAND_COMPUTED[name, workload]
    cost = task.cost(case.workload, case.args)
    assert cost.bytes == nbytes
    if flops is not None:
        assert cost.flops == flops


# -- seeds and mutants ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
def test_seeds_are_replies_that_extract(task, device):
    replies = seed_replies(task, device)
    assert replies
    for reply in replies:
        assert extract(reply, task, device).entry == task.entry


@pytest.mark.sampled("name", take=6)
@pytest.mark.parametrize("name", TASKS)
def test_the_cpp_seed_is_accepted(name, evaluator):
    task = load_task(name)
    evaluation = evaluator.evaluate(name, f"```cpp\n{task.seeds()['cpu.cpp']}\n```")
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason
    assert evaluation.workloads_right == 1.0


def test_mutants_fit_their_seeds_and_differ(task):
    raw = tomllib.loads((task.folder / "mutants.toml").read_text())
    mutants = task.mutants()
    assert len(mutants) == len(raw["mutant"]) >= 8
    assert len({m.name for m in mutants}) == len(mutants)
    sources = {task.mutate(m) for m in mutants}
    assert len(sources) == len(mutants)
    assert not sources & set(task.seeds().values())
    for mutant in mutants:
        assert set(mutant.expect) <= {"wrong", "silent_error", "crashed", "timed_out", "tampered", "build_failed"}


@pytest.mark.sampled("name", take=2)
@pytest.mark.parametrize("name", TASKS)
def test_what_mutants_are_made_of_passes_verification(name, evaluator):
    task = load_task(name)
    judged = judge_without_clock(evaluator, task, task.seeds()["cpu.cpp"], secrets.randbits(48))
    assert judged.outcome is Outcome.UNMEASURED, judged.reason


MUTANTS = [(name, mutant.name) for name in TASKS for mutant in load_task(name).mutants() if mutant.seed.endswith(".cpp")]


@pytest.mark.sampled("name", take=6, each=2)
@pytest.mark.parametrize(("name", "mutant"), MUTANTS)
def test_a_mutant_is_rejected(name, mutant, evaluator):
    task = load_task(name)
    chosen = next(m for m in task.mutants() if m.name == mutant)
    everything = os.environ.get("FASTKERNELS_TESTS") == "all"
    seed = secrets.randbits(48) if everything else zlib.crc32(f"{name}/{mutant}".encode())  # what fails in a sample fails again
    judged = judge_without_clock(evaluator, task, task.mutate(chosen), seed)
    assert judged.outcome.value in chosen.expect, f"{judged.outcome.value}: {judged.reason}"
