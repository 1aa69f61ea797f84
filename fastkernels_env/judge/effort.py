"""How much an evaluation does."""

from __future__ import annotations

from typing import NamedTuple

import msgspec


def kept_tasks(device: str, shared: bool) -> int:
    """Tasks whose baselines a judge keeps running.

    Args:
        device: Device kind.
        shared: Whether other judges have baselines there too: every process that uses a GPU makes it dearer to start another.
    """
    return 1 if shared and device == "cuda" else 2


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How much to measure.

    Attributes:
        rounds: Rounds, if time allows.
        least: Rounds below which no time limit stops the measurement.
        seconds: Budget of one workload's rounds.
        noise_floor: Relative difference between two processes that run the same code, the same on every workload, which no sampling
            inside them sees (measured with `bench aa`, see docs/measurements).
        workload_floor: The same for what is different on every workload, so that a sum over workloads has less of it.
        caches: The K calls of a block touch this many times the last-level cache.
        block: How long K calls take at least, as a share of what keeps the clock's noise small.
        fresh_seconds: Time per block for entries that are drawn anew and compared with their oracle; of a dear one chance decides.
        sealed_seconds: Budget of one workload's sealed calls.
        placements: How often the rings get new memory. Where memory lies makes a difference that rounds alone do not see.
    """

    rounds: int
    least: int
    seconds: float
    noise_floor: float
    workload_floor: float = 0.0
    caches: float = 2.0
    block: float = 1.0
    fresh_seconds: float = 0.004
    sealed_seconds: float = 0.2
    placements: int = 1

    def part(self) -> Plan:
        """What is measured in one placement."""
        rounds, least = -(-self.rounds // self.placements), -(-self.least // self.placements)
        return msgspec.structs.replace(self, rounds=rounds, least=least, seconds=self.seconds / self.placements)


class Effort(NamedTuple):
    """A preset of amounts.

    Attributes:
        hidden: Hidden workloads that are verified.
        all_public: Verify and time every public workload, not only the smoke workload.
        compiled: Also time baselines that go through torch.compile.
        cpu: Rounds and seconds per workload on a CPU.
        cuda: The same on a GPU.
        trace: Measure the submission's share of device time.
    """

    hidden: int
    all_public: bool
    compiled: bool
    cpu: Plan
    cuda: Plan
    trace: bool

    def plan(self, device: str) -> Plan:
        """Rounds and seconds per workload."""
        return self.cuda if device == "cuda" else self.cpu


EFFORTS = {
    "full": Effort(
        4, True, True, Plan(rounds=10, least=6, seconds=0.8, noise_floor=0.03),
        Plan(rounds=30, least=6, seconds=0.9, sealed_seconds=0.15, placements=2, noise_floor=0.006, workload_floor=0.0104), True,
    ),
    "quick": Effort(
        2, False, False, Plan(rounds=5, least=3, seconds=0.3, caches=1.0, sealed_seconds=0.15, noise_floor=0.08),
        Plan(rounds=8, least=5, seconds=0.2, block=0.3, sealed_seconds=0.1, noise_floor=0.006, workload_floor=0.0104), False,
    ),
}
"""``full`` is what scores are reported with; ``quick`` gives an early, noisier answer."""


def get_effort(name: str) -> Effort:
    """An effort by name.

    Raises:
        ValueError: Unknown name.
    """
    if name not in EFFORTS:
        raise ValueError(f"expected effort {' or '.join(map(repr, EFFORTS))}, got {name!r}")
    return EFFORTS[name]
