"""Workers on a GPU see what a process of their own would see, also those forked after the compile stack was imported."""

from __future__ import annotations

import time

import pytest

from fastkernels_env.device import open_device
from fastkernels_env.judge.errors import WorkerError
from fastkernels_env.judge.host import WorkerHost
from fastkernels_env.protocol import Load

EARLY = """
import torch

counts = torch.cuda.device_count(), torch._C._cuda_getDeviceCount()
assert counts[0] == counts[1] > 0, f"torch counts {counts[0]} devices, CUDA {counts[1]}"
torch.cuda.get_device_properties(0)


def nothing():
    pass
"""
LATE = "import sys\n\nassert 'torch._inductor.debug' in sys.modules, 'not imported yet'\n" + EARLY
PATIENCE = 120.0
"""Seconds in which the fork server has imported the compile stack."""


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    host = WorkerHost(open_device("cuda"), tmp_path_factory.mktemp("cache"))
    yield host
    host.close()


def load_in_worker(host, path, trusted):
    session = host.spawn(trusted=trusted)
    try:
        session.load(Load(str(path), "python", "nothing", (), (), False, False), 60.0)
    finally:
        session.close()


@pytest.mark.parametrize("trusted", [False, True], ids=["submission", "baseline"])
@pytest.mark.parametrize("source", [EARLY, LATE], ids=["early", "late"])
def test_a_worker_counts_its_devices(host, tmp_path, trusted, source):
    path = tmp_path / "counts.py"
    path.write_text(source)
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return load_in_worker(host, path, trusted)
        except WorkerError as error:
            if "not imported yet" not in error.summary or time.monotonic() > deadline:
                raise
        time.sleep(1.0)
