"""What the hosts of a cluster have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import ray

Node = Mapping[str, Any]
"""A host, as Ray describes it."""


def nodes() -> list[Node]:
    """The hosts that are up."""
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def units(node: Node, unit: str) -> int:
    """How many of ``CPU`` or ``GPU`` a host has."""
    return int(node["Resources"].get(unit, 0))


def cores_per_gpu(hosts: Iterable[Node]) -> int:
    """Cores for each GPU on the host with GPUs that has the fewest, at least one. Hosts without GPUs do not count."""
    return max(min((units(host, "CPU") // units(host, "GPU") for host in hosts if units(host, "GPU")), default=1), 1)
