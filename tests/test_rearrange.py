"""Every task's re-randomisation: the inputs change, and the answers with them exactly as it says."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastkernels_env.device.cpu import CpuDevice
from fastkernels_env.judge.geometry import Geometry
from fastkernels_env.judge.sets import InputSets
from fastkernels_env.rearrange import Entries, Rows, fill, gather
from fastkernels_env.registry import load_task
from fastkernels_env.task import Role, Workload

SHAPES = {
    "rms_norm": ("float32", {"T": 5, "H": 33, "row_stride": 48}, {}),
    "fused_add_rms_norm": ("float32", {"T": 7, "H": 40}, {}),
    "silu_and_mul": ("bfloat16", {"T": 6, "I": 24}, {}),
    "rope": ("float32", {"T": 12, "q": 4, "kv": 2, "d": 16, "P": 64, "row_stride": 200}, {"theta": 1e4, "neox": 1, "run": 4}),
    "gqa_decode": ("float32", {"B": 3, "q": 4, "kv": 2, "d": 16, "page": 4, "pool": 6}, {"median": 9, "sigma": 0.8, "low": 1, "high": 30}),
    "linear_decode": ("bfloat16", {"M": 3, "N": 12, "K": 20}, {}),
    "moe_gemm": ("float32", {"T": 6, "k": 2, "E": 4, "N": 12, "K": 16, "block": 16, "down": 0}, {"mul_routed_weight": 1}),
    "fused_experts": ("float32", {"T": 5, "H": 16, "E": 4, "k": 2, "I": 8}, {}),
    "allreduce_add_rms_norm": ("float32", {"T": 7, "H": 40}, {}),
    "allgather_gemm": ("float32", {"T": 6, "N": 12, "K": 20}, {}),
    "gemm_reduce_scatter": ("bfloat16", {"T": 6, "N": 12, "K": 20}, {}),
    "moe_dispatch": ("float32", {"T": 6, "H": 12, "E": 8, "K": 2}, {}),
    "layer_norm": ("float32", {"T": 5, "H": 33}, {}),
    "gelu_tanh_and_mul": ("bfloat16", {"T": 6, "I": 24}, {}),
    "gated_rms_norm": ("float32", {"T": 3, "h": 2, "d": 24}, {"eps": 1e-5, "sigmoid": 1}),
    "embedding_bag_collection": ("float32", {"B": 15, "F": 4, "R": 64, "D": 8, "mean": 9}, {}),
    "dlrm_interaction": ("float32", {"B": 5, "F": 3, "D": 12}, {}),
    "group_norm_silu": ("float32", {"N": 5, "C": 8, "S": 9, "G": 2, "last": 1}, {}),
    "moe_finalize": ("bfloat16", {"T": 6, "k": 3, "H": 24}, {}),
    "linear_prefill": ("float32", {"M": 3, "N": 12, "K": 20}, {}),
    "llama_mlp": ("float32", {"T": 5, "H": 16, "I": 8}, {}),
    "add_rms_norm_fp8": ("float32", {"T": 18, "H": 256}, {"epsilon": 1e-6}),
    "fp8_block_gemm": ("float32", {"M": 5, "N": 136, "K": 256}, {}),
    "merge_states": ("float32", {"T": 6, "q": 3, "d": 12}, {}),
    "axial_attention": ("float32", {"B": 2, "F": 3, "S": 5, "H": 2, "d": 12}, {"temporal": 1}),
    "adaln_modulate": ("float32", {"B": 3, "N": 5, "H": 24, "row_stride": 72}, {"gated": 1}),
    "rope3d_attention": ("float32", {"B": 3, "T": 7, "H": 2, "d": 14}, {"grid": 4, "depth": 2, "runs": 1}),
    "kv_scatter": ("float32", {"T": 6, "kv": 2, "d": 8, "page": 4, "run": 3, "hnd": 1}, {"tail": 0.2}),
    "vit_varlen_attention": ("float32", {"S": 3, "mean": 5, "h": 2, "d": 12, "row_stride": 80}, {"sigma": 0.5, "spread": 4}),
    "gqa_prefill": (
        "float32", {"B": 3, "mean": 4, "q": 4, "kv": 2, "d": 16, "page": 4, "pool": 3}, {"sigma": 0.8, "prefix": 9, "causal": 1}
    ),
    "joint_attention": ("float32", {"B": 2, "S": 5, "L": 3, "h": 3, "d": 16}, {}),
    "sink_attention": (
        "float32", {"B": 3, "q": 4, "kv": 2, "d": 16, "page": 4, "pool": 6},
        {"median": 9, "sigma": 0.8, "low": 1, "high": 30, "window": 6},
    ),
    "segment_csr": ("float32", {"P": 40, "C": 6, "mean": 3}, {"reduce": 1}),
    "triangle_mult": ("float32", {"B": 2, "N": 5, "C": 12}, {"outgoing": 1}),
    "maxsim": ("float32", {"Q": 2, "m": 4, "D": 7, "L": 9, "d": 12}, {"median": 5, "sigma": 0.5, "skipped": 0.1}),
    "conv2d_nhwc": ("float32", {"N": 5, "H": 6, "W": 5, "C": 8, "O": 12, "k": 3, "stride": 2, "pad": 1}, {}),
    "dwconv_bn_act": ("float32", {"N": 5, "H": 6, "W": 5, "C": 12, "k": 3, "stride": 2, "pad": 1, "act": 2}, {}),
    "se_grn": ("float32", {"N": 5, "S": 9, "C": 24, "R": 4}, {}),
    "ms_deform_attn": ("float32", {"B": 3, "Q": 7, "h": 2, "d": 8, "H": 6, "W": 5, "p0": 2, "p1": 3, "p2": 0, "p3": 0}, {}),
    "conv1d_update": ("float32", {"B": 7, "dim": 12, "W": 4, "row_stride": 40}, {"silu": 1}),
    "ssm_update": ("float32", {"T": 7, "H": 4, "G": 2, "p": 4, "n": 8, "row_stride": 40}, {"softplus": 1}),
    "gdn_decode": ("float32", {"B": 5, "H": 2, "HV": 4, "K": 8, "V": 12}, {"norm": 1}),
    "activation": ("float32", {"T": 5, "I": 33, "row_stride": 48}, {"kind": 1}),
    "conv1d": ("float32", {"B": 5, "L": 12, "C": 6, "O": 8, "k": 3, "stride": 2, "pad": 2, "dil": 2, "G": 2}, {}),
    "mla_decode": ("float32", {"B": 3, "h": 3, "c": 12, "r": 4, "page": 4, "pool": 6}, {"median": 9, "sigma": 0.8, "low": 1, "high": 30}),
    "bias_attention": ("float32", {"B": 3, "S": 7, "H": 3, "d": 12}, {"median": 5, "sigma": 0.5, "scaled": 0}),
    "swin_window_attention": ("float32", {"B": 3, "g": 2, "w": 3, "H": 2, "d": 8}, {"shifted": 1}),
    "flux_block": ("float32", {"B": 3, "L": 2, "N": 5, "h": 2, "d": 16, "I": 40}, {"across": 3, "eps": 1e-6}),
    "oasis_block": ("float32", {"B": 3, "F": 2, "S": 6, "h": 2, "d": 12, "I": 40}, {"across": 3, "eps": 1e-6}),
    "llama_decoder": ("float32", {"B": 5, "M": 7, "H": 24, "q": 4, "kv": 2, "d": 8, "I": 40}, {"base": 1e4, "eps": 1e-5}),
    "gaussian_rasterize": ("float32", {"C": 3, "H": 56, "W": 72, "per": 3, "list": 6, "D": 3}, {}),
}
CALLS, WEIGHTS = 4, 2


def sets_of(name, seed, down=0):
    dtype, sizes, params = SHAPES[name]
    sizes = {**sizes, "down": 1} if down else sizes
    return sets_for(name, Workload(name="small", device="cpu", dtype=dtype, sizes=sizes, params=params), seed)


def sets_for(name, workload, seed):
    return InputSets(load_task(name), workload, Geometry(CALLS, WEIGHTS, {}, 256, {}, 0), seed, CpuDevice())


def answers_to(sets, args, slot):
    weights = {arg.name: sets.weight(arg.name)[slot % WEIGHTS] for arg in sets.task.signature if arg.role is Role.WEIGHT}
    return sets.task.oracle({**args, **weights, **sets.scalars})


def stacked(sets):
    """What the sets hold, and the oracle's answers to them as they are: ``[sets, ...]`` by name."""
    plain = sets.arrange(torch.Generator().manual_seed(0), plain=True)
    place = plain.order.argsort()
    cases = [sets.case(plain, int(place[index])) for index in range(sets.geometry.entries)]
    return {arg.name: torch.stack([case.expected[arg.name] for case in cases]) for arg in sets.task.outputs}


@pytest.mark.parametrize(("name", "down"), [*((name, 0) for name in SHAPES), ("moe_gemm", 1)])
def test_rearranged_inputs_have_the_rearranged_answers(name, down):
    for seed in range(4):
        sets = sets_of(name, seed, down)
        known, generator = stacked(sets), torch.Generator().manual_seed(seed)
        for _ in range(3):
            compare_answers(sets, known, generator)


def compare_answers(sets, known, generator):
    """Assert that what an arrangement says of its answers is what the oracle says of its inputs."""
    arrangement = sets.arrange(generator)
    for slot in range(sets.geometry.entries):
        answers = sets.case(arrangement, slot).expected
        for arg in sets.task.outputs:
            expected = gather(known[arg.name], arrangement.moved.outputs[arg.name].part(slice(slot, slot + 1)))[0]
            torch.testing.assert_close(answers[arg.name], expected, rtol=1e-9, atol=1e-12, msg=f"{sets.workload.name} slot {slot}")


@pytest.mark.sampled("name", take=8, most=4)
@pytest.mark.parametrize("name", SHAPES)
def test_so_they_have_at_every_timed_workload(name):
    """And at hidden ones, some of which have more experts than rows, a single row, or no full page."""
    task, rng = load_task(name), random.Random(5)
    for workload in [*task.workloads("cpu"), *task.hidden_workloads("cpu", rng, 6)]:
        sets = sets_for(name, workload, 1)
        compare_answers(sets, stacked(sets), torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", SHAPES)
def test_every_slot_gets_other_values_and_keeps_what_does_not_matter(name):
    sets = sets_of(name, 3)
    generator = torch.Generator().manual_seed(1)
    values = [sets.arrange(generator) for _ in range(6)]
    for arg in sets.task.signature:
        # Routing and segments go with their set, as where they are metadata; masks have two values.
        if arg.role in (Role.INPUT, Role.INOUT) and arg.plain not in ("topk_ids", "indptr", "mask", "doc_mask"):
            seen = [[sets.values(a, arg.name, slice(slot, slot + 1)).double() for a in values] for slot in range(2 * CALLS)]
            changed = [torch.stack([other != first for other in others]).any(0) for first, *others in seen]
            used = torch.stack(changed).double().mean()
            assert used > 0.9, (name, arg.name, used)


@pytest.mark.parametrize("name", SHAPES)
def test_whole_entries_are_rarely_seen_again(name):
    """What an entry holds, all of it, in one block is nowhere in the next."""
    sets = sets_of(name, 5)
    generator = torch.Generator().manual_seed(2)

    def contents():
        arrangement = sets.arrange(generator)
        names = [arg.name for arg in sets.task.signature if arg.role in (Role.INPUT, Role.INOUT)]
        stacks = [sets.values(arrangement, arg, slice(0, 2 * CALLS)) for arg in names]
        return {b"".join(stack[slot].contiguous().view(torch.uint8).numpy().tobytes() for stack in stacks) for slot in range(2 * CALLS)}

    blocks = [contents() for _ in range(5)]
    again = sum(len(a & b) for i, a in enumerate(blocks) for b in blocks[:i])
    assert again <= 0.2 * 10 * 2 * CALLS, (name, again)


@pytest.mark.parametrize("name", SHAPES)
def test_a_renewed_set_is_held_as_it_is_and_is_new(name):
    sets = sets_of(name, 8)
    generator = torch.Generator().manual_seed(4)
    known = stacked(sets)
    before = sets.version.clone()
    arrangement = sets.arrange(generator, count=2 * CALLS, renewed=3)
    slots = arrangement.kept.nonzero().flatten().tolist()
    assert len(slots) == 3
    assert int((sets.version != before).sum()) == 3
    again = stacked(sets)
    for slot in slots:
        index = int(arrangement.order[slot])
        case = sets.case(arrangement, slot)
        for arg in sets.task.outputs:
            assert torch.equal(gather(again[arg.name], arrangement.moved.outputs[arg.name])[slot], again[arg.name][index])
            torch.testing.assert_close(case.expected[arg.name], again[arg.name][index])
            assert not torch.equal(again[arg.name][index], known[arg.name][index])


@pytest.mark.parametrize("name", SHAPES)
def test_weights_stay_what_they_are(name):
    sets = sets_of(name, 2)
    weights = {arg.name: sets.weight(arg.name).clone() for arg in sets.task.signature if arg.role is Role.WEIGHT}
    sets.renew(range(sets.geometry.entries))
    sets.draw(1)
    for weight, values in weights.items():
        assert torch.equal(sets.weight(weight), values)


@pytest.mark.parametrize("name", ["gqa_decode", "moe_gemm"])
def test_metadata_stays_what_the_task_promises(name):
    sets = sets_of(name, 6)
    arrangement = sets.arrange(torch.Generator().manual_seed(9))
    for slot in range(sets.geometry.entries):
        case = sets.case(arrangement, slot)
        if name == "gqa_decode":
            used = int(case.args["kv_indptr"][-1])
            pages = case.args["kv_indices"][:used].tolist()
            assert len(set(pages)) == used
            assert int(case.args["last_page_len"].min()) >= 1
        else:
            rows, block = sets.workload.sizes["R"], sets.workload.sizes["block"]
            ids, used = case.args["sorted_token_ids"], int(case.args["num_tokens_post_padded"])
            assert sorted(ids[ids < rows].tolist()) == list(range(rows))
            assert bool((ids[used:] == rows).all())
            for first in range(0, used, block):
                part = ids[first : first + block].tolist()
                assert part == sorted(part)


@settings(max_examples=60)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 3), st.integers(0, 10**6), st.data())
def test_units_are_dealt_out_inside_groups_and_none_twice(slots, units, groups, seed, data):
    rng = random.Random(seed)
    order = torch.tensor(rng.sample(range(slots), slots))
    kept = torch.tensor(data.draw(st.lists(st.booleans(), min_size=slots, max_size=slots)))
    group = torch.tensor([rng.randrange(groups) for _ in range(slots)])
    group[kept] = groups + torch.arange(slots)[kept]
    entries = Entries({}, {}, order, group, kept, torch.Generator().manual_seed(seed))
    index = entries.rows(units)
    assert sorted(index.flatten().tolist()) == list(range(slots * units))
    place_of = order.argsort()
    for slot in range(slots):
        sources = place_of[index[slot] // units]
        assert set(group[sources].tolist()) == {int(group[slot])}
        if kept[slot]:
            assert index[slot].tolist() == [int(order[slot]) * units + unit for unit in range(units)]
    dealt = entries.sets(units)
    for unit in range(units):
        assert sorted(dealt[:, unit].tolist()) == list(range(slots))
    for name in ("signs", "powers"):
        factor = getattr(entries, name)(units)
        assert bool((factor[kept] == 1).all())
        assert set(factor.flatten().tolist()) <= {-1.0, 0.5, 1.0, 2.0}
    assert entries.permutations(units).sort(1).values.tolist() == [list(range(units))] * slots


@settings(max_examples=60)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), st.booleans(), st.integers(0, 10**6))
def test_filling_and_gathering_agree(slots, units, lines, width, scaled, seed):
    generator = torch.Generator().manual_seed(seed)
    stack = torch.randn(slots, units * lines, width, generator=generator)
    index = torch.randint(slots * units, (slots, units), generator=generator)
    first = int(torch.randint(width, (1,), generator=generator))
    factor = torch.tensor([-1.0, 2.0, 0.5])[torch.randint(3, (slots, units), generator=generator)] if scaled else None
    rows = Rows(index, factor, first)
    wide = torch.full((slots, units * lines, width + 3), 7.0)
    fill(wide[..., :width], stack, rows)
    assert torch.equal(wide[..., :width], gather(stack, rows))
    assert bool((wide[..., width:] == 7).all())
    for slot in range(slots):
        for unit in range(units):
            source = stack.view(slots * units, lines, width)[index[slot, unit]].clone()
            if factor is not None:
                source[..., first:] *= factor[slot, unit]
            assert torch.equal(gather(stack, rows)[slot].view(units, lines, width)[unit], source)
