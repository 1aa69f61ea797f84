"""Clusters of several nodes, all on this machine."""

from __future__ import annotations

import contextlib

import pytest
import ray
from ray.cluster_utils import Cluster


@pytest.fixture(scope="module")
def cluster_of(host_cache):
    """Starts the module's cluster: the cores of its head, and those of further nodes."""
    with contextlib.ExitStack() as ends:

        def start(head, *nodes):
            made = Cluster(initialize_head=True, head_node_args={"num_cpus": head})
            ends.callback(made.shutdown)
            for cores in nodes:
                made.add_node(num_cpus=cores)
            made.wait_for_nodes()
            ray.init(address=made.address, log_to_driver=False, logging_level="error")
            ends.callback(ray.shutdown)
            return made

        yield start
