"""What was seen of ops, and the book that keeps it: counts, and statistics of values where tensors have any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import torch

from . import values
from .ops import Op
from .situations import Batch, fit

_MOST_LOOKED_AT = 8
"""Calls of one op whose values are looked at: the next ones of the same shape tell little."""
_MOST_LENGTHS = 1 << 16
"""Lengths that are kept of one op."""


@dataclass
class Observation:
    """An op and what was seen of it.

    Attributes:
        op: The call. Those that differ in nothing but the layer are one.
        kind: Kind of the steps that made them; empty where steps are not known.
        count: Calls, each times the steps for which it stands.
        steps: How many steps that were.
        values: Statistics by argument; see `values`.
        routing: Rows of each expert, hottest first, one list for each call that was looked at.
        lengths: Lengths in the cache, of the first calls.
        looked: Calls whose values were looked at.
        step: Number of the step that made the latest call.
    """

    op: Op
    kind: str = ""
    count: int = 0
    steps: int = 0
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    routing: list[list[int]] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    looked: int = 0
    step: int = 0

    def look(self, tensors: Mapping[str, torch.Tensor], routing: torch.Tensor | None) -> None:
        """Take statistics of what has values: the arguments of a call, and the experts of its tokens (int ``[T, k]``)."""
        for name, tensor in tensors.items():
            if not values.is_real(tensor):
                continue
            kind = values.kind_of(name)
            if tensor.is_floating_point():
                self.values.setdefault(name, dict(values.summary(tensor)))
            elif kind == "pages":
                self.values[name] = dict(values.pages(tensor))
            elif kind == "lengths":
                self.lengths += tensor.flatten().tolist()
            elif kind == "offsets":
                self.values[name] = {"lengths": tensor.flatten().diff().tolist()}
            elif kind == "routing" and routing is None:
                routing = tensor
        if routing is not None and values.is_real(routing):
            experts = self.op.tensors["w2"].shape[0] if "w2" in self.op.tensors else int(self.op.numbers.get("num_experts", 0))
            self.routing.append(values.routing(routing, experts))

    def measured(self) -> Op:
        """The op with what was measured of it: lengths in the cache, the skew of the routing."""
        op, numbers = self.op, dict(self.op.numbers)
        if op.op == "attention" and "median" not in numbers and self.lengths and min(self.lengths) > 0:
            numbers |= msgspec.structs.asdict(fit(self.lengths))
        if op.op == "experts" and self.routing:
            share = sum(map(values.hot_share, self.routing)) / len(self.routing)
            experts, tokens = op.tensors["w2"].shape[0], op.tensors["input"].shape[0]
            numbers["zipf"] = values.fit_zipf(share, tokens, experts, int(numbers["top_k"]))
        return msgspec.structs.replace(op, numbers=numbers)


class Book:
    """Keeps what is seen, step by step.

    Attributes:
        observations: In the order of first sight.
        operators: Calls of every torch operator by name, also of those that no task mirrors.
    """

    def __init__(self) -> None:
        self.observations: list[Observation] = []
        self.operators: dict[str, int] = {}
        self._found: dict[bytes, Observation] = {}
        self._batch: Batch | None = None
        self._step = 0

    def turn(self, batch: Batch | None) -> None:
        """From now on calls belong to one step that stands for `batch`; to no known step if None."""
        self._batch, self._step = batch, self._step + 1

    def tally(self, operator: str) -> None:
        """A torch operator has run."""
        self.operators[operator] = self.operators.get(operator, 0) + (self._batch.steps if self._batch else 1)

    def add(
        self, op: Op, tensors: Mapping[str, torch.Tensor], routing: torch.Tensor | None = None, lengths: list[int] | None = None
    ) -> None:
        """A call.

        Args:
            op: What was called.
            tensors: Its arguments, by role or name: their values are looked at.
            routing: Experts of its tokens.
            lengths: In the caches of its sequences.
        """
        batch = self._batch
        if batch is not None:
            op = _within(op, batch)
        key = msgspec.json.encode((op, batch.kind if batch else "", batch.tokens if batch else 0))
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = Observation(op, kind=batch.kind if batch else "")
            self.observations.append(found)
        found.count += batch.steps if batch else 1
        if batch and found.step != self._step:
            found.step, found.steps = self._step, found.steps + batch.steps
        if len(found.lengths) < _MOST_LENGTHS:
            found.lengths += lengths or []
        if found.looked < _MOST_LOOKED_AT:
            found.looked += 1
            found.look(tensors, routing)


def _within(op: Op, batch: Batch) -> Op:
    """An op with what it needs to know about its step."""
    numbers, tensors = dict(op.numbers), op.tensors
    if op.op in ("rope", "attention"):
        numbers["sequences"] = float(batch.sequences)
    if op.op == "attention":
        numbers["rows"] = float(batch.tokens)
    if op.op == "attention" and batch.context is not None:
        numbers |= msgspec.structs.asdict(batch.context)
        if batch.kind == "mixed":  # attention runs apart for those that have one token
            query = tensors["query"]
            shape = (batch.running, query.shape[1], 1, query.shape[3])
            tensors = {"query": msgspec.structs.replace(query, shape=shape, stride=())}
    return msgspec.structs.replace(op, numbers=numbers, tensors=tensors)
