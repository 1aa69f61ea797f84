"""What a trace of an architecture holds: calls of device operators, and where they were made."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec


class Traffic(msgspec.Struct, frozen=True):
    """What a call touches of one tensor's memory."""

    storage: int
    """Number of the memory; views of one tensor share it."""
    bytes: int


class Call(msgspec.Struct, kw_only=True):
    """A call of a device operator."""

    op: str
    """Operator without overload (``mm``, ``native_layer_norm``), or ``attention`` for a whole attention of one layer."""
    scopes: tuple[str, ...] = ()
    """From the outside in: classes of modules (``LlamaMLP``) and, with brackets, functions (``apply_rotary_pos_emb()``)."""
    serials: tuple[int, ...] = ()
    """Of each scope, which run of it this is: calls with equal serials were made in the same run."""
    reads: tuple[Traffic, ...] = ()
    writes: tuple[Traffic, ...] = ()
    flops: int = 0
    dtype: str = "bfloat16"
    facts: dict[str, int] = {}
    """What else attribution asks: ``rows`` of a product, ``causal``, ``window``, ``queries``, ``grouped`` and so on."""
    weight: float = 1.0
    """How often the workload makes this call: layers that are alike are traced once."""


class Frame(msgspec.Struct):
    """A part of a trace that is repeated as a whole: one layer of many alike."""

    count: int = 1
    entries: list[Call | Frame] = []

    def calls(self, times: float = 1.0) -> Iterator[Call]:
        """Every call in the frame, with its weight."""
        times *= self.count
        for entry in self.entries:
            if isinstance(entry, Frame):
                yield from entry.calls(times)
            else:
                yield msgspec.structs.replace(entry, weight=entry.weight * times)
