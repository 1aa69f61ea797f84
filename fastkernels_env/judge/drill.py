"""What the integrate gate runs a submission on: cases of one shape that differ in their batch, with the same weights and numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec
import torch

from ..task import Role, Task, Workload
from ..types import Regime
from .cases import Case, derive_seed, make_case

if TYPE_CHECKING:
    from ..task import Value

MOST_SIZES = 25
_OCTAVE = 33
"""First of the sizes on a GPU, where there are enough: 33 to 64 round up to one power of two, so bucketing compiles once."""


class Drill:
    """Draws cases.

    Args:
        task: The task.
        kind: Device kind.
        where: Torch device.
        seed: Seeds the values.
        keep_metadata: Whether all cases of one size have the same metadata too: `plan` digests it ahead of a captured call.

    Attributes:
        base: The workload that all cases are cut from.
        sizes: Unseen values of the batch size, in an order drawn from the seed; at most `MOST_SIZES`.
    """

    def __init__(self, task: Task, kind: str, where: str, seed: int, keep_metadata: bool) -> None:
        self.task, self._where, self._seed, self._keep_metadata = task, where, seed, keep_metadata
        self.base = task.smoke_workload(kind)
        ragged = task.ragged.get(kind, {})
        self._symbol = task.batch if task.batch in ragged else next(iter(ragged), "")
        self.sizes = self._choose(*ragged[self._symbol], kind) if self._symbol else []
        self._weights: list[torch.Tensor] = []
        self._fixed: dict[str, Value] = {}

    def _choose(self, low: int, high: int, kind: str) -> list[int]:
        seen = self.base.sizes.get(self._symbol)
        first = _OCTAVE if kind == "cuda" and low <= _OCTAVE and high >= 2 * _OCTAVE - 2 else max(low, 2)
        sizes = [size for size in range(first, high + 1) if size != seen][: MOST_SIZES]
        generator = torch.Generator().manual_seed(derive_seed(self._seed, "sizes"))
        return [sizes[place] for place in torch.randperm(len(sizes), generator=generator).tolist()]

    def workload(self, size: int | None = None) -> Workload:
        """The base workload, or it with another batch size."""
        if size is None:
            return self.base
        name, sizes = f"{self.base.name} at {self._symbol}={size}", {**self.base.sizes, self._symbol: size}
        return msgspec.structs.replace(self.base, name=name, sizes=sizes)

    def case(self, label: str, size: int | None = None, like: Case | None = None, oracle: bool = True) -> Case:
        """Draw one case.

        Args:
            label: Cases with different labels hold different values.
            size: Batch size; the base workload's if None.
            like: A case of this shape whose metadata it keeps, if this drill keeps any.
            oracle: Whether it will be compared.

        Raises:
            JudgeFault: The task's generator is broken.
        """
        seed = derive_seed(self._seed, "gate", label)
        drawn = make_case(self.task, self.workload(size), Regime.REALISTIC, seed, self._where, oracle=False, weights=self._weights)
        args = self._settled(drawn.args, like)
        return drawn._replace(args=args, expected=self.task.oracle(args) if oracle else {})

    def _settled(self, args: Mapping[str, Value], like: Case | None) -> dict[str, Value]:
        """The arguments with the first case's weights and numbers, which production keeps from call to call."""
        settled = dict(args)
        for arg in self.task.signature:
            if arg.role in (Role.WEIGHT, Role.SCALAR):
                settled[arg.name] = self._fixed.setdefault(arg.name, args[arg.name])
            elif arg.role is Role.METADATA and like is not None and self._keep_metadata:
                settled[arg.name] = like.args[arg.name]
        return settled
