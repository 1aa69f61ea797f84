"""Tasks of two ranks on two GPUs; skipped where there is one."""

from __future__ import annotations

import pytest
import torch

from fastkernels_env import Outcome
from fastkernels_env.device import open_device
from fastkernels_env.registry import load_task, task_folders

NAMES = [name for name in task_folders() if load_task(name).ranks == 2]
SEEDS = [(name, seed) for name in NAMES for seed in load_task(name).seeds() if not seed.endswith(".cpp")]


@pytest.mark.parametrize(("name", "seed"), SEEDS)
def test_the_seed_is_accepted_on_both(name, seed, judge, record):
    tag = "python" if seed.endswith(".py") else "cuda"
    evaluation = judge.evaluate(name, f"```{tag}\n{load_task(name).seeds()[seed]}\n```")
    record(evaluation)
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason
    assert len(evaluation.device.peers) == 1


@pytest.mark.parametrize("name", NAMES)
def test_parts_of_ranks_lie_on_their_own_devices(name):
    device = open_device("cuda")
    free = [torch.cuda.mem_get_info(index)[0] for index in range(2)]
    arena = device.allocate(1 << 28, load_task(name).ranks)
    try:
        taken = [before - torch.cuda.mem_get_info(index)[0] for index, before in enumerate(free)]
        assert all(bytes_taken >= 1 << 28 for bytes_taken in taken)
        arena.view[1].fill_(3)
        assert int(arena.view[1].sum(dtype=torch.int64)) == 3 * arena.size
    finally:
        arena.close()


@pytest.mark.parametrize("name", ["allreduce_add_rms_norm"])
def test_a_rank_that_is_wrong_is_found(name, judge):
    source = load_task(name).seeds()["triton.py"].rstrip() + "\n    residual_out.mul_(1.0 + comm.rank)\n"
    evaluation = judge.evaluate(name, f"```python\n{source}```")
    assert evaluation.outcome is Outcome.WRONG
    assert "residual_out@1" in evaluation.reason
