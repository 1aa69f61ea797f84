"""Multi-GPU tasks: one entry, run by several ranks together, each on its own device and its own part of the arguments.

To the judge such a task is one call with the arguments of all ranks: ``x`` of rank 1 is ``x@1``. Inputs are drawn, outputs verified and
memory watched on every rank by the same code that does so for one, and a block is over when the slowest rank has written its outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import torch

from .rearrange import Rows
from .signature import Arg, Comm, Role
from .task import Task, TaskError

if TYPE_CHECKING:
    from .task import Value

__all__ = ["Comm", "RankedTask", "at_rank", "join", "stacked", "tensor"]


class RankedTask(Task):
    """A task of several ranks. Subclasses state the signature of one rank, `Comm` last.

    `inputs`, `oracle` and the other methods deal with the arguments of all ranks; `join` and `split` go between one mapping per rank and
    that. `cost` states what one rank does; of bytes, those of its own memory.
    """

    ranks: ClassVar[int] = 2
    workspace: ClassVar[Mapping[str, int]] = {"cpu": 1 << 20, "cuda": 64 << 20}
    _one_rank: ClassVar[tuple[Arg, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "signature" in cls.__dict__:
            cls._one_rank = cls.signature
            if not cls._one_rank or cls._one_rank[-1].role is not Role.COMM:
                raise TaskError(f"{cls.__name__}: the last argument of a multi-GPU entry must be Comm(), so that ranks reach each other")
            cls.signature = tuple(
                msgspec.structs.replace(arg, name=at_rank(arg.name, rank), rank=rank)
                for rank in range(cls.ranks) for arg in cls._one_rank if arg.role is not Role.COMM
            )

    @property
    def entry_signature(self) -> tuple[Arg, ...]:
        """The arguments of one rank's call."""
        return self._one_rank

    def split(self, args: Mapping[str, Value]) -> list[dict[str, Value]]:
        """The arguments of every rank, by the names that the entry knows."""
        return [
            {name.partition("@")[0]: value for name, value in args.items() if name.endswith(f"@{rank}")} for rank in range(self.ranks)
        ]


def at_rank(name: str, rank: int) -> str:
    """The judge's name of an argument of one rank: ``x@1``."""
    return f"{name}@{rank}"


def join(ranks: Sequence[Mapping[str, Value]]) -> dict[str, Any]:
    """One mapping over the arguments (or outputs) of all ranks."""
    return {at_rank(name, rank): value for rank, values in enumerate(ranks) for name, value in values.items()}


def stacked(parts: Sequence[Rows], rows: int) -> Rows:
    """Where the rows of an argument come from that holds those of all ranks, one rank below the other.

    Args:
        parts: By rank, where its own come from, with a factor for each.
        rows: How many a rank has.
    """
    places = [
        (part.source // rows * len(parts) + rank) * rows + part.source % rows for rank, part in enumerate(parts)
    ]
    return Rows(torch.cat(places, 1), torch.cat([part.factor for part in parts if part.factor is not None], 1))


def tensor(args: Mapping[str, Value], name: str) -> torch.Tensor:
    """An argument that is a tensor."""
    value = args[name]
    assert isinstance(value, torch.Tensor)
    return value
