"""The evaluator of a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..evaluator import Evaluator, check_effort, is_strict
from .pool import RayPool

if TYPE_CHECKING:
    from .actor import Facts


class Fleet(Evaluator):
    """An `Evaluator` whose judges are the hosts of a Ray cluster.

    Every GPU of the cluster (or, in one without, every group of `cores` cores) gets an actor with judges of its own. Hosts may join, leave
    and die: what they were judging is judged elsewhere, and a host counts for nothing against a reply. Tasks that hosts do not have travel
    with the reply. Native code is compiled on cores that no judge has, where the cluster has such. Rewards are computed and records logged
    where the fleet was made.

    Args:
        address: Of the cluster, as `ray.init` takes it; None: as ``RAY_ADDRESS`` says, else a cluster on this host.
        device: ``auto`` (GPUs where the cluster has some), ``cpu`` or ``cuda``.
        effort: As for `Evaluator`.
        log: As for `Evaluator`.
        strict: As for `Evaluator`.
        cores: Cores of an actor that judges on a CPU.
        judges: Judges of every actor, as for `Evaluator`.

    Raises:
        DeviceError: The cluster has no such device.
        ValueError: Unknown effort, or no number of judges or cores.
    """

    def __init__(
        self, address: str | None = None, *, device: str = "auto", effort: str = "full", log: str | Path | None = None,
        strict: bool | None = None, cores: int = 2, judges: int | str = "auto",
    ) -> None:
        check_effort(effort)
        self._fleet = RayPool(address, device, cores, judges, is_strict(strict))
        super().__init__(effort=effort, log=log, strict=strict, pool=self._fleet)

    def facts(self) -> list[Facts]:
        """What the actors that answer at present are."""
        return self._fleet.facts()

    @property
    def builds(self) -> int:
        """How many replies were compiled on cores that no judge has."""
        return self._fleet.builds

    def wait(self, actors: int = 1) -> None:
        """Wait until so many actors answer.

        Raises:
            TimeoutError: They do not.
        """
        self._fleet.wait(actors)
