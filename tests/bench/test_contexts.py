"""Contexts are timed where there is a GPU; without one the command says so."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fastkernels_env.bench.contexts import Contexts, lines, run_contexts
from fastkernels_env.device import cuda_present


@pytest.mark.skipif(cuda_present(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_is_missing():
    done = subprocess.run([sys.executable, "-m", "fastkernels_env", "bench", "contexts"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "expected a CUDA device, found none; run this on a GPU host" in done.stderr


@pytest.mark.skipif(cuda_present(), reason="there is a GPU")
def test_a_context_that_cannot_be_made_is_an_error_and_no_figure():
    with pytest.raises(RuntimeError, match="no context could be made: "):
        run_contexts([8], [0], 1, lambda text: None)


def test_a_line_names_queues_and_company():
    found = [Contexts(queues=4, idle=24, alone=0.1634, at_once=8, each=1.25)]
    assert list(lines(found)) == ["4 queues, beside 24 idle contexts: 0.163 s; each of 8 at once 1.250 s"]
