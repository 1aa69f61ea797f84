"""Tasks of several ranks: real groups of processes, mistakes that only one rank makes, and what joins them."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

import pytest
import torch

from fastkernels_env import Outcome
from fastkernels_env.judge.canaries import fill_slots, touched
from fastkernels_env.judge.layout import extent_of, part_of, plan_layout, view_of
from fastkernels_env.qualify.judging import judge_without_clock
from fastkernels_env.ranked import RankedTask, join
from fastkernels_env.registry import load_task, task_folders
from fastkernels_env.signature import Comm
from fastkernels_env.submission import extract
from fastkernels_env.task import Baseline, Cost, Input, Output, Role, TaskError, Weight, Workload

NAME = "allreduce_add_rms_norm"
BARRIER, STORE = "    comm.barrier();\n", "fk::store(sum_out + at + h, sum[h]);"
PYTHON = """
import ctypes, os, socket, time
import torch
import torch.distributed as dist
{before}

def allreduce_add_rms_norm(norm_out, residual_out, input, residual, weight, epsilon, comm):
    {inside}
    total = input.float().clone()
    dist.all_reduce(total, group=comm.group)
    total += residual
    residual_out.copy_(total)
    norm_out.copy_(torch.nn.functional.rms_norm(total, (total.shape[-1],), weight.float(), epsilon))
    {after}
"""


def edited(find, replace):
    source = load_task(NAME).seeds()["cpu.cpp"]
    assert source.count(find) == 1
    return f"```cpp\n{source.replace(find, replace)}\n```"


def judged(evaluator, reply):
    """The verdict without the clock."""
    return judge_without_clock(evaluator, load_task(NAME), reply, seed=5)


def python(before="", inside="pass", after="pass"):
    return f"```python\n{PYTHON.format(before=before, inside=inside, after=after)}```"


# -- the task ------------------------------------------------------------------------------------------------------------------


class Tiny(RankedTask):
    """Two ranks."""

    entry = "tiny"
    ranks = 2
    signature = (Output("out", "T", "H"), Input("x", "T", "H"), Weight("w", "H"), Comm())
    baselines = (Baseline(name="eager", file="eager.py"),)

    def inputs(self, workload, draw):
        return {}

    def oracle(self, args):
        return {}

    def cost(self, workload, args):
        return Cost(bytes=1, flops=1)


TINY = Tiny()
SIZES = Workload(name="any", device="cpu", dtype="float32", sizes={"T": 3, "H": 5})


def test_the_judge_handles_the_arguments_of_all_ranks():
    assert [arg.name for arg in TINY.signature] == ["out@0", "x@0", "w@0", "out@1", "x@1", "w@1"]
    assert [arg.rank for arg in TINY.signature] == [0, 0, 0, 1, 1, 1]
    assert [arg.name for arg in TINY.entry_signature] == ["out", "x", "w", "comm"]
    assert [arg.plain for arg in TINY.outputs] == ["out", "out"]


def test_arguments_go_apart_and_together():
    values = [{"x": torch.ones(1), "k": 2}, {"x": torch.zeros(1), "k": 3}]
    assert TINY.split(join(values)) == values


def test_an_entry_that_gets_no_comm_is_refused():
    with pytest.raises(TaskError, match=r"Lonely: the last argument of a multi-GPU entry must be Comm\(\)"):

        class Lonely(RankedTask):
            entry = "lonely"
            signature = (Output("out", "T"),)


def test_ranks_of_a_call_lie_at_the_same_places_in_parts_of_their_own():
    values = [{}, {}]
    layout = plan_layout(TINY, SIZES, values, seed=3)
    spans = [(ref.rank, ref.offset, ref.offset + extent_of(ref)) for slot in layout.slots for ref in slot.refs.values()]
    for number, (rank, start, end) in enumerate(spans):
        assert 0 < start < end < layout.size
        for other, begin, stop in spans[:number]:
            assert rank != other or stop < start or end < begin
    assert [argument.rank for argument in layout.slots[0].arguments] == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_byte_that_changed_is_found_on_its_rank(rank):
    layout = plan_layout(TINY, SIZES, [{}])
    memory = torch.zeros(2, layout.size, dtype=torch.uint8)
    fill_slots(memory, layout, 1)
    image = memory.clone()
    refs = layout.slots[0].refs
    view_of(memory, refs[f"out@{rank}"]).fill_(1.0)
    assert touched(TINY, layout, memory.clone(), image.clone()) == ("", "")
    end = refs[f"out@{rank}"].offset + extent_of(refs[f"out@{rank}"])
    stray = memory.clone()
    part_of(stray, rank)[end + 2] ^= 1
    assert touched(TINY, layout, stray, image.clone())[0] == f"1 bytes changed outside every buffer, first 2 bytes after 'out@{rank}'"
    mutated = memory.clone()
    view_of(mutated, refs[f"x@{rank}"])[1, 1] = 9.0
    assert touched(TINY, layout, mutated, image.clone())[1] == f"x@{rank}"


@pytest.mark.parametrize("arguments", ["norm_out, residual_out, input, residual, weight, epsilon", "comm, norm_out, residual_out, input"])
def test_a_submission_must_take_comm_last(arguments):
    from fastkernels_env.submission import RejectedError

    with pytest.raises(RejectedError, match="weight, epsilon, comm"):
        extract(f"```python\ndef {NAME}({arguments}):\n    pass\n```", load_task(NAME), "cpu")


def test_a_host_that_is_too_small_says_so(wide_task, evaluator):
    evaluation = evaluator.evaluate(wide_task, "```python\ndef tiny_scale(out, input, weight, factor, comm):\n    pass\n```")
    assert evaluation.outcome is Outcome.FAULT, evaluation.reason
    assert f"this task takes 1000 cores, this host has {len(os.sched_getaffinity(0))}" in evaluation.reason


# -- judged --------------------------------------------------------------------------------------------------------------------


def test_python_code_gets_a_process_group_and_a_workspace(evaluator):
    inside = """
    comm.peers[comm.rank][:4].fill_(comm.rank + 1)
    dist.barrier(group=comm.group)
    assert [int(peer[0]) for peer in comm.peers] == list(range(1, comm.world_size + 1))
    assert dist.get_rank() == comm.rank and dist.get_world_size() == comm.world_size == len(comm.peers) == 2
    dist.barrier(group=comm.group)
"""
    evaluation = judged(evaluator, python(inside=inside.strip()))
    assert evaluation.outcome is Outcome.UNMEASURED, evaluation.reason


@pytest.mark.parametrize("rank", [0, 1])
def test_one_rank_that_is_wrong_makes_the_call_wrong(evaluator, rank):
    evaluation = judged(evaluator, edited(STORE, STORE.replace("sum[h]", f"sum[h] * (comm.rank() == {rank} ? 1.02f : 1.f)")))
    assert evaluation.outcome is Outcome.WRONG
    assert f"residual_out@{rank}" in evaluation.reason


def test_one_rank_that_dies_ends_the_call(evaluator):
    evaluation = judged(evaluator, edited(BARRIER, f"{BARRIER} if (comm.rank()) *(volatile int*)0 = 1;"))
    assert evaluation.outcome is Outcome.CRASHED
    assert "SIGSEGV" in evaluation.reason


@pytest.mark.parametrize("rank", [0, 1])
def test_one_rank_that_raises_is_heard_while_the_other_waits(evaluator, rank):
    raising = f'    if (comm.rank() == {rank}) TVM_FFI_THROW(RuntimeError) << "not on this rank";\n{BARRIER}'
    evaluation = judged(evaluator, edited(BARRIER, raising))
    assert evaluation.outcome is Outcome.CRASHED
    assert "not on this rank" in evaluation.reason


def test_one_rank_that_hangs_times_the_call_out(evaluator):
    evaluation = judged(evaluator, edited(BARRIER, f"{BARRIER} while (comm.rank()) sched_yield();"))
    assert evaluation.outcome is Outcome.TIMED_OUT


def test_one_rank_that_writes_an_input_is_found(evaluator):
    evaluation = judged(evaluator, python(after="residual[:comm.rank, :1] = 1.0"))
    assert evaluation.outcome is Outcome.SILENT_ERROR
    assert "residual@1" in evaluation.reason


def test_one_rank_that_stops_working_under_the_clock_is_found(evaluator):
    lazy = f"static int calls = 0; const bool works = ++calls < 150 || !comm.rank();\n{BARRIER}"
    source = edited(BARRIER, lazy).replace(STORE, f"if (works) {STORE}")
    evaluation = evaluator.evaluate(NAME, source)
    assert evaluation.outcome in (Outcome.TAMPERED, Outcome.SILENT_ERROR), evaluation.reason


def test_ranks_have_their_own_memory_and_the_workspace_and_no_more(evaluator):
    """Through the lead pass the descriptors of all parts: no rank may look into it."""
    inside = """
    lead = os.getppid()
    for path in (f"/proc/{lead}/fd", f"/proc/{lead}/mem", f"/proc/{lead}/maps"):
        try:
            opened = os.open(path, os.O_RDONLY)
        except OSError:
            continue
        raise AssertionError(path)
    held = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]
    assert len([name for name in held if "memfd:arena" in name]) == 3, held  # its own part, and the workspace's two
    mapped = [line.split() for line in open("/proc/self/maps") if "memfd:arena" in line]
    assert len({fields[4] for fields in mapped}) == 3, mapped
"""
    evaluation = judged(evaluator, python(inside=inside.strip()))
    assert evaluation.outcome is Outcome.UNMEASURED, evaluation.reason


def serve_below_ephemeral_ports():
    """A service of this host. At a port that the ranks' own group might be given on their loopback, they would reach themselves."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for port in range(lowest - 1, 1024, -1):
        with contextlib.suppress(OSError):
            return socket.create_server(("127.0.0.1", port))
    raise AssertionError("every port is taken")


@pytest.mark.skipif(os.geteuid() != 0, reason="as an ordinary user this host may lack the network namespace")
def test_ranks_reach_each_other_and_nobody_else(evaluator):
    """A service of this host, on its loopback and under an abstract name, is not there; files stay out of reach as ever."""
    with serve_below_ephemeral_ports() as service, socket.socket(socket.AF_UNIX) as named:
        named.bind(f"\0fastkernels-test-{os.getpid()}")
        named.listen()
        before = f"""
def reached(family, address):
    with socket.socket(family) as end:
        end.settimeout(2)
        return end.connect_ex(address) == 0

assert not reached(socket.AF_INET, ("127.0.0.1", {service.getsockname()[1]})), "a port of the host"
assert not reached(socket.AF_UNIX, chr(0) + "fastkernels-test-{os.getpid()}"), "a name of the host"
assert not reached(socket.AF_INET, ("1.1.1.1", 53)), "the net"
assert not os.path.exists({str(load_task(NAME).folder / "task.py")!r}), "a file"
"""
        evaluation = judged(evaluator, python(before))
        assert evaluation.outcome is Outcome.UNMEASURED, evaluation.reason
        service.settimeout(0.1)
        with pytest.raises(TimeoutError):
            service.accept()


def test_what_joins_the_ranks_is_asked_of_the_signature_alone():
    ranked = [task for task in map(load_task, task_folders()) if task.ranks > 1]
    assert len(ranked) >= 4
    for task in ranked:
        assert task.ranks == 2
        assert task.entry_signature[-1].role is Role.COMM
        assert all(arg.role is not Role.COMM for arg in task.signature)
