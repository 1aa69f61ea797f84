"""Mutants that only a GPU can judge are rejected there: CUDA C++ by hand, Triton by sample."""

from __future__ import annotations

import pytest

from fastkernels_env.qualify.candidates import candidates
from fastkernels_env.qualify.records import Status
from fastkernels_env.qualify.runner import Runner
from fastkernels_env.registry import load_task

TRITON_EACH = 4


def statuses(judge, name, chosen):
    results = []
    Runner(judge, load_task(name), 0).run(chosen, results.append)
    return {f"{r.seed} {r.operator or r.id} {r.before} -> {r.after}: {r.reason}": r.status for r in results}


@pytest.mark.parametrize("name", ["rms_norm", "silu_and_mul"])
def test_hand_written_cuda_mutants_are_rejected(judge, name):
    chosen = [c for c in candidates(load_task(name), "cuda", 0, 0) if c.seed == "cuda.cu"]
    assert chosen
    assert set(statuses(judge, name, chosen).values()) == {Status.KILLED}


@pytest.mark.parametrize("name", ["rms_norm", "moe_gemm", "gqa_decode"])
def test_a_sample_of_triton_mutants_is_rejected(judge, name):
    chosen = [c for c in candidates(load_task(name), "cuda", 3 * TRITON_EACH, 0) if c.seed == "triton.py" and c.kind == "auto"]
    found = statuses(judge, name, [c for c in chosen if not c.equivalent and c.operator != "narrowed index"][:TRITON_EACH])
    assert set(found.values()) <= {Status.KILLED, Status.STILLBORN}, found
