"""The entry as an operator of torch.library, and inside graphs that torch.compile makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from .session import Session

NAMESPACE = "fastkernels_gate"
_STAGED_ROLES = frozenset({"output", "inout", "input"})


class Operator:
    """An operator that calls the entry, with what `prepare` and `plan` made for the call that is `current`.

    The name stays free for the submission to register too: ours has a namespace of its own. As production does, the operator is
    declared by its schema, has an implementation for every device and a fake one that says what it returns: nothing.

    Args:
        session: Has the entry and the bound calls.
        schema: As in `protocol.Register`.
    """

    def __init__(self, session: Session, schema: str) -> None:
        name = schema.partition("(")[0]
        self._session = session
        self._library = torch.library.Library(NAMESPACE, "DEF")  # type: ignore[no-untyped-call]
        self._library.define(schema)  # type: ignore[no-untyped-call]
        self._library.impl(name, self._call, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
        torch.library.register_fake(f"{NAMESPACE}::{name}", lambda *_: None, lib=self._library)
        self.function: Callable[..., None] = getattr(getattr(torch.ops, NAMESPACE), name).default
        self.current = 0
        self._graphs: dict[Any, Callable[..., None]] = {}

    def _call(self, *values: Any) -> Any:
        """What an entry returns is returned: torch refuses it if the schema says that nothing is."""
        session = self._session
        assert session.entry
        with session.stream():
            return session.entry.call(*session.as_entry_takes(values), **session.extras.get(self.current, {}))

    def check_schema(self, index: int) -> None:
        """Run a call through the dispatcher under torch's own check of the schema (the `test_schema` of opcheck).

        Raises:
            RuntimeError: An argument was mutated, or is an alias of something, and the schema does not say so.
        """
        from torch._subclasses.schema_check_mode import SchemaCheckMode

        self.current = index
        with SchemaCheckMode():
            self.function(*self._session.tensors[index])

    def run_opaque(self, index: int, backend: Any) -> None:
        """Run a call as an opaque operator of a compiled graph that has operations before and after it."""
        self.current = index
        values = self._session.tensors[index]
        scalars = {place: value for place, value in enumerate(values) if not isinstance(value, torch.Tensor)}
        staged = tuple(place for place, value in enumerate(values) if self._is_staged(place, value))
        key = (tuple(scalars.items()), staged)
        if key not in self._graphs:
            graph = _graph_around(self.function, self._session.roles, scalars, staged)
            self._graphs[key] = torch.compile(graph, fullgraph=True, dynamic=True, backend=backend)
        with torch._dynamo.config.patch(specialize_float=True):  # numbers are a layer's constants
            self._graphs[key]([value for value in values if isinstance(value, torch.Tensor)])

    def _is_staged(self, place: int, value: Any) -> bool:
        """Whether the graph makes this argument, or takes it up: strided views go in as they are, since graphs make dense tensors."""
        if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.dtype.itemsize == 1:
            return False
        return self._session.roles[place] in _STAGED_ROLES and value.is_contiguous()


def _graph_around(
    operator: Callable[..., None], roles: Sequence[str], scalars: dict[int, Any], staged: Sequence[int]
) -> Callable[[list[torch.Tensor]], None]:
    """A function of the tensor arguments: staged inputs come out of an operation, staged outputs go into one. All of them are exact."""

    def graph(tensors: list[torch.Tensor]) -> None:
        given = iter(tensors)
        values = [scalars[place] if place in scalars else next(given) for place in range(len(roles))]
        inner = list(values)
        for place in staged:
            inner[place] = torch.empty_like(values[place]) if roles[place] == "output" else values[place] * 2.0 * 0.5
        operator(*inner)
        for place in staged:
            if roles[place] != "input":
                values[place].copy_(inner[place] * 2.0 * 0.5)

    return graph
