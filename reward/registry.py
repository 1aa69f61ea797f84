"""The registry of terms: pure functions from an evaluation to one number, which presets put together.

A new term is one function::

    from fastkernels_env.reward import term

    @term(low=0.0, high=1.0)
    def brevity(evaluation):
        \"\"\"1 for no code, 0 from 20,000 characters on.\"\"\"
        return 1 - min(len(evaluation.code) / 20_000, 1)

and is used from a preset as ``term = "brevity"``. A value outside the declared range is clipped to it, because the bands of a
preset are proved from that range.

Parameters of a term are keyword-only and annotated; a preset gives them as keys beside ``term``. ``Annotated[float,
msgspec.Meta(gt=0)]`` limits a number::

    @term
    def brevity(evaluation, *, most: Annotated[int, msgspec.Meta(gt=0)] = 20_000): ...
"""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar, overload

import msgspec

from ..types import Evaluation
from .grade import Grade

Range = tuple[float, float]
TermFunction = Callable[..., float]
Check = Callable[[Mapping[str, Any]], None]
_F = TypeVar("_F", bound=TermFunction)

RESERVED = ("term", "weight", "gate", "clip")
"""Keys of a part that no parameter of a term may take."""


class Term(msgspec.Struct, frozen=True):
    """A term as one part of a preset uses it: a function, its arguments, and the range of its values, which a grade may narrow."""

    name: str
    function: TermFunction
    range: Range
    by_grade: tuple[tuple[Grade, Range], ...] = ()
    arguments: tuple[tuple[str, Any], ...] = ()
    tables: tuple[tuple[str, tuple[tuple[str, Any], ...]], ...] = ()
    """Arguments that are tables, as pairs: a preset can be hashed."""

    def __call__(self, evaluation: Evaluation) -> Any:
        """What the function returns for an evaluation; a number, if it keeps its promise."""
        return self.function(evaluation, **dict(self.arguments), **{name: dict(pairs) for name, pairs in self.tables})

    def range_in(self, grade: Grade) -> Range:
        """The lowest and highest value that the term can have in that grade."""
        return dict(self.by_grade).get(grade, self.range)


class Definition(NamedTuple):
    """A registered term, before a preset gives its arguments."""

    name: str
    function: TermFunction
    range: Range
    by_grade: tuple[tuple[Grade, Range], ...]
    parameters: type[msgspec.Struct]
    check: Check | None

    def bind(self, arguments: msgspec.Struct) -> Term:
        """The term with these arguments, a value of `parameters`."""
        given = {name: getattr(arguments, name) for name in self.parameters.__struct_fields__}
        tables = tuple((name, tuple(value.items())) for name, value in given.items() if isinstance(value, dict))
        plain = tuple((name, value) for name, value in given.items() if not isinstance(value, dict))
        return Term(self.name, self.function, self.range, self.by_grade, plain, tables)


_terms: dict[str, Definition] = {}


@overload
def term(function: _F, /) -> _F: ...


@overload
def term(
    *, low: float = 0.0, high: float = 1.0, by_grade: Mapping[str, Range] | None = None, check: Check | None = None
) -> Callable[[_F], _F]: ...


def term(
    function: _F | None = None,
    /,
    *,
    low: float = 0.0,
    high: float = 1.0,
    by_grade: Mapping[str, Range] | None = None,
    check: Check | None = None,
) -> _F | Callable[[_F], _F]:
    """Register a function as a term, under its own name. Use it bare (range 0 to 1) or with a range.

    Args:
        function: Takes an `Evaluation` and its parameters by keyword, returns a number; no state, no randomness.
        low: Lowest value, whatever the arguments; may be ``-math.inf``, then presets must clip the term.
        high: Highest value; may be ``math.inf``.
        by_grade: Narrower ranges that hold in single grades.
        check: Looks at the arguments as a preset gives them, before their types are checked, and raises `ValueError` with a sentence
            that begins with the key.

    Returns:
        The function itself, unchanged.

    Raises:
        ValueError: Another function has that name already, a range is not one, or a parameter cannot be given by a preset.
    """
    def register(function: _F) -> _F:
        name = function.__name__
        known = _terms.get(name)
        if known is not None and _home(known.function) != _home(function):
            raise ValueError(f"there is a term {name!r} already, in {known.function.__module__}; give this function another name")
        ranges = tuple((Grade(grade), _range(name, *bounds)) for grade, bounds in (by_grade or {}).items())
        _terms[name] = Definition(name, function, _range(name, low, high), ranges, _parameters(name, function), check)
        return function

    return register if function is None else register(function)


def get_term(name: str) -> Definition | None:
    """The term of that name, or None."""
    return _terms.get(name)


def term_names() -> tuple[str, ...]:
    """Names of all registered terms, sorted."""
    return tuple(sorted(_terms))


def _home(function: TermFunction) -> tuple[str, str]:
    return function.__module__, function.__qualname__


def _range(name: str, low: float, high: float) -> Range:
    if not low <= high or low == math.inf or high == -math.inf:
        raise ValueError(f"term {name!r}: expected a range with low <= high, got {low} and {high}")
    return float(low), float(high)


def _parameters(name: str, function: TermFunction) -> type[msgspec.Struct]:
    """A struct of the function's parameters after the evaluation: `msgspec` then checks what a preset gives."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    hints = typing.get_type_hints(function, include_extras=True) if parameters else {}
    fields: list[Any] = []
    for parameter in parameters:
        if parameter.kind is not parameter.KEYWORD_ONLY or parameter.name not in hints or parameter.name in RESERVED:
            raise ValueError(
                f"term {name!r}: expected parameter {parameter.name!r} to be keyword-only, annotated, and not called "
                f"{', '.join(RESERVED[:-1])} or {RESERVED[-1]}"
            )
        default = () if parameter.default is parameter.empty else (parameter.default,)
        fields.append((parameter.name, hints[parameter.name], *default))
    return msgspec.defstruct(name, fields, frozen=True, kw_only=True, forbid_unknown_fields=True)
