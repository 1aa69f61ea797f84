"""The entry as an operator of torch.library, and inside graphs that torch.compile makes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from .loader import compiled_parts

if TYPE_CHECKING:
    from .session import Session

NAMESPACE = "fastkernels_gate"
_libraries: list[torch.library.Library] = []
"""They unregister what they define when they go."""
_STAGED_ROLES = frozenset({"output", "inout", "input"})


def _registered(schema: str, call: Callable[..., Any]) -> Callable[..., None]:
    """An operator of this schema that runs `call`.

    As production does, it is declared by its schema, has an implementation for every device and a fake one that says what it returns:
    nothing. The name stays free for the submission to register too: ours has a namespace of its own.

    Raises:
        RuntimeError: torch refuses the schema.
    """
    name = schema.partition("(")[0]
    library = torch.library.Library(NAMESPACE, "DEF" if not _libraries else "FRAGMENT")  # type: ignore[no-untyped-call]
    _libraries.append(library)
    library.define(schema)  # type: ignore[no-untyped-call]
    library.impl(name, call, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"{NAMESPACE}::{name}", lambda *_: None, lib=library)
    function: Callable[..., None] = getattr(getattr(torch.ops, NAMESPACE), name).default
    return function


class Operator:
    """An operator that calls the entry, with what `prepare` and `plan` made for the call that is `current`.

    Args:
        session: Has the entry and the bound calls.
        schema: As in `protocol.Register`.
    """

    def __init__(self, session: Session, schema: str) -> None:
        self._session = session
        self.function = _registered(schema, self._call)
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
        with SchemaCheckMode(), _comparable():
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


class Operators:
    """The ops of a submission as operators, called by the program around them.

    Args:
        session: Has the program, the ops and the bound calls.
        schemas: By name, as in `protocol.Register`.
    """

    def __init__(self, session: Session, schemas: Mapping[str, str]) -> None:
        assert session.entry
        self._session, self._entry = session, session.entry
        self._functions = {name: _registered(schema, self._calling(name)) for name, schema in schemas.items()}
        self._compiled: dict[str, Callable[..., Any]] = {}

    def _calling(self, name: str) -> Callable[..., Any]:
        function = self._entry.ops[name]

        def call(*values: Any) -> Any:
            with self._session.stream():
                return function(*values)

        return call

    @contextlib.contextmanager
    def _in_place(self, functions: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
        """The program calls these for the ops while this holds."""
        assert self._entry.program
        names = vars(self._entry.program)
        names.update(functions)
        try:
            yield
        finally:
            names.update(self._entry.ops)

    def check_schema(self, index: int) -> None:
        """Run a call of the program whose ops go through the dispatcher, under torch's own check of their schemas.

        Raises:
            RuntimeError: An argument was mutated, or is an alias of something, and the schema does not say so.
        """
        from torch._subclasses.schema_check_mode import SchemaCheckMode

        def checked(function: Callable[..., None]) -> Callable[..., None]:
            def call(*values: Any) -> None:
                with SchemaCheckMode(), _comparable():  # around each op alone: it copies all arguments of everything inside
                    function(*values)

            return call

        session = self._session
        with self._in_place({name: checked(function) for name, function in self._functions.items()}):
            self._entry.call(*session.tensors[index], **session.extras.get(index, {}))

    def run_opaque(self, index: int, backend: Any) -> None:
        """Run a call of the program with its parts, or all of it, compiled to one graph each, in which the ops are opaque operators."""
        session, program = self._session, self._entry.program
        assert program
        entry = self._entry.call.__name__
        plain = {name: getattr(program, name) for name in compiled_parts(program) or (entry,)}
        if not self._compiled:
            self._compiled = {
                # Sizes are constants: with symbols for them a network of a hundred layers takes a minute to trace.
                name: torch.compile(function, fullgraph=True, dynamic=False, backend=backend) for name, function in plain.items()
            }
        with self._in_place(self._functions), torch._dynamo.config.patch(specialize_float=True):
            vars(program).update(self._compiled)
            try:
                getattr(program, entry)(*session.tensors[index], **session.extras.get(index, {}))
            finally:
                vars(program).update(plain)


@contextlib.contextmanager
def _comparable() -> Iterator[None]:
    """`torch.allclose`, by which a schema check tells what was mutated, does not take eight-bit floats on a CPU: those go by bits."""
    plain = torch.allclose

    def compare(input: torch.Tensor, other: torch.Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
        if input.is_floating_point() and input.dtype.itemsize == 1:
            return torch.equal(input.view(torch.uint8), other.view(torch.uint8))
        return plain(input, other, rtol, atol, equal_nan)

    torch.allclose = compare
    try:
        yield
    finally:
        torch.allclose = plain


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
