"""Mutation operators for C++ and CUDA C++. Each yields edits of one kind of mistake."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator
from itertools import pairwise

from .c_tokens import TYPES, Code
from .mutations import Edit

_OTHER_COMPARISON = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="}
_OTHER_ARITHMETIC = {
    "+": "-", "-": "+", "*": "/", "/": "*", "%": "/", "+=": "-=", "-=": "+=", "*=": "/=", "/=": "*=", "<<": ">>", ">>": "<<",
    "&": "|", "|": "&",
}
_OTHER_EXTREME = {"min": "max", "max": "min", "fminf": "fmaxf", "fmaxf": "fminf", "fmin": "fmax", "fmax": "fmin"}
_COMMUTATIVE = {*_OTHER_EXTREME, "swap"}
_LIMIT_ENDS = {";", ")", "]", "}", ",", "&&", "||", "?", ":"}
_BARRIERS = {"__syncthreads", "__syncwarp", "__threadfence"}
_INTEGER = re.compile(r"(?P<digits>\d+)(?P<suffix>[uUlL]*)", re.ASCII)
_FLOAT = re.compile(r"(?P<digits>(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?P<suffix>[fFlL]?)", re.ASCII)


def operators(suffix: str) -> tuple[Callable[[Code], Iterator[Edit]], ...]:
    """Every operator for a file of that suffix."""
    return (*_SHARED, *(_CUDA if suffix == ".cu" else _CPP))


def comparisons(code: Code) -> Iterator[Edit]:
    """``<`` for ``<=``, ``==`` for ``!=``."""
    for index in _binary(code, _OTHER_COMPARISON):
        yield _replace(code, "comparison", index, index, _OTHER_COMPARISON[code.at(index)])


def limits(code: Code) -> Iterator[Edit]:
    """The right side of an inequality, one more and one less: a mask or a loop that is a step too wide or too narrow."""
    for index in _binary(code, ("<", "<=", ">", ">=")):
        last = index + 1
        while code.at(code.following(last)) not in _LIMIT_ENDS and code.following(last) < len(code.tokens):
            last = code.following(last)
        last = code.partner.get(last, last) if code.partner.get(last, 0) > last else last
        limit = code.text(index + 1, last)
        for change in ("- 1", "+ 1"):
            yield _replace(code, "bound", index + 1, last, f"({limit} {change})")


def loops(code: Code) -> Iterator[Edit]:
    """A loop that starts one late or takes steps twice as wide."""
    for index, token in enumerate(code.tokens):
        if token.text != "for" or code.at(index + 1) != "(":
            continue
        for first, last in code.split(index + 1, ";"):
            start = next((at for at in range(first, last) if code.at(at) == "="), 0)
            if start and first == index + 2:
                value = code.text(start + 1, last)
                yield _replace(code, "start", start + 1, last, "1" if value == "0" else f"({value}) + 1")
            if code.at(first) == "++" and last == first + 1:
                yield _replace(code, "step", first, last, f"{code.at(last)} += 2")
            if code.at(first + 1) == "+=":
                yield _replace(code, "step", first + 2, last, f"2 * ({code.text(first + 2, last)})")


def constants(code: Code) -> Iterator[Edit]:
    """Zero for one, one for zero, one more, one less, twice."""
    for index, token in enumerate(code.tokens):
        if token.kind == "number":
            for other in _other_numbers(token.text.replace("'", "")):
                yield _replace(code, "constant", index, index, other)


def arithmetic(code: Code) -> Iterator[Edit]:
    """Another arithmetic, shift or bit operator."""
    for index in _binary(code, _OTHER_ARITHMETIC):
        yield _replace(code, "arithmetic", index, index, _OTHER_ARITHMETIC[code.at(index)])


def dropped_terms(code: Code) -> Iterator[Edit]:
    """An operator and its right operand left out: a factor, an addend, a bias."""
    for index in _binary(code, ("+", "-", "*", "/", "%")):
        yield Edit("dropped term", code.tokens[index - 1].end, code.tokens[code.operand_end(index + 1)].end, "")


def dropped_signs(code: Code) -> Iterator[Edit]:
    """A unary minus or a negation left out."""
    for index, token in enumerate(code.tokens):
        if token.text in ("-", "!") and not code.is_value(index - 1):
            yield _replace(code, "dropped sign", index, index, "")


def logic(code: Code) -> Iterator[Edit]:
    """``&&`` for ``||``, and each side alone is covered by negated conditions."""
    for index in _binary(code, ("&&", "||")):
        yield _replace(code, "logic", index, index, {"&&": "||", "||": "&&"}[code.at(index)])


def conditions(code: Code) -> Iterator[Edit]:
    """A condition negated, or always true."""
    for index, token in enumerate(code.tokens):
        if token.text == "if" and (opening := index + 1 + (code.at(index + 1) == "constexpr")) in code.partner:
            closing = code.partner[opening]
            yield _replace(code, "negated condition", opening, closing, f"(!{code.text(opening, closing)})")
            yield _replace(code, "dropped guard", opening, closing, "(true)")
        if token.text == "?":
            first = _condition_start(code, index)
            yield _replace(code, "negated condition", first, index - 1, f"!({code.text(first, index - 1)})")
            for value in ("true", "false"):
                yield _replace(code, "dropped guard", first, index - 1, value)


def indices(code: Code) -> Iterator[Edit]:
    """Another element: the first, the next."""
    for index, token in enumerate(code.tokens):
        if token.text == "[" and code.is_value(index - 1) and index in code.partner and not _declares(code, index):
            first, last = index + 1, code.partner[index] - 1
            if first > last:
                continue
            yield _replace(code, "index", first, last, "0")
            yield _replace(code, "index", first, last, f"{code.text(first, last)} + 1")
            second = last + 2
            if code.at(second) == "[" and second in code.partner:
                end = code.partner[second]
                yield _replace(code, "swapped index", index, end, code.text(second, end) + code.text(index, last + 1))


def swapped_arguments(code: Code) -> Iterator[Edit]:
    """Two neighbouring arguments of a call in the wrong order."""
    for index, token in enumerate(code.tokens):
        called = code.tokens[index - 1]
        if token.text != "(" or not code.is_value(index - 1) or called.text in {"for", "if", "while", "switch", *_COMMUTATIVE}:
            continue
        parts = code.split(index, ",")
        if called.text == ">" and code.at(code.partner.get(index - 1, 0) - 1) in _COMMUTATIVE:
            continue
        if any(code.is_declaration(first, last + 1) for first, last in parts if last > first):
            continue  # a definition's parameters
        for (a, b), (c, d) in pairwise(parts):
            yield _replace(code, "swapped arguments", a, d, f"{code.text(c, d)}, {code.text(a, b)}")


def extremes(code: Code) -> Iterator[Edit]:
    """Minimum for maximum."""
    for index, token in enumerate(code.tokens):
        if token.text in _OTHER_EXTREME and code.at(index + 1) in ("(", "<"):
            yield _replace(code, "minimum and maximum", index, index, _OTHER_EXTREME[token.text])


def casts(code: Code) -> Iterator[Edit]:
    """A conversion left out."""
    for index, token in enumerate(code.tokens):
        converts = code.at(index + 1) == "(" and code.partner.get(index + 1, 0) > index + 2 and code.at(index + 2) != "*"
        if token.text in TYPES and converts and code.tokens[index - 1].kind != "name":
            yield _replace(code, "dropped cast", index, index, "")
        if token.text == "static_cast" and index + 1 in code.partner:
            yield _replace(code, "dropped cast", index, code.partner[index + 1], "")


def statements(code: Code) -> Iterator[Edit]:
    """A statement left out: an assignment, an accumulation, a store, a barrier, a break."""
    for first, semicolon in code.statements():
        kind = "dropped barrier" if code.at(first) in _BARRIERS else "dropped statement"
        yield _replace(code, kind, first, semicolon - 1, "")


def coarse_accumulators(code: Code) -> Iterator[Edit]:
    """A sum that is rounded to bf16 after every addition."""
    floats = {code.at(i + 1) for i, token in enumerate(code.tokens) if token.text == "float" and code.at(i + 2) in ("=", ",", ";")}
    for first, semicolon in code.statements():
        if code.at(first) in floats and code.at(first + 1) == "+=":
            name, value = code.at(first), code.text(first + 2, semicolon - 1)
            rounded = f"{{ fk::bf16 coarse; fk::store(&coarse, {name} + ({value})); {name} = fk::load(&coarse); }}"
            yield _replace(code, "coarse accumulator", first, semicolon, rounded)


def half_variables(code: Code) -> Iterator[Edit]:
    """A float variable in half precision."""
    yield from _retyped(code, "coarse type", "float", "_Float16")


def narrow_integers(code: Code) -> Iterator[Edit]:
    """Sizes and offsets in a type that they overflow. A CPU's workloads are too small for 32 bits to be too few, so they get 8."""
    for edit in _retyped(code, "narrow integer", "int64_t", "int8_t"):
        if not code.source[: edit.start].rstrip().endswith("for ("):  # a loop that never ends is no interesting mutant
            yield edit


def cuda_halves(code: Code) -> Iterator[Edit]:
    """A float variable in half precision."""
    yield from _retyped(code, "coarse type", "float", "__half")


def cuda_integers(code: Code) -> Iterator[Edit]:
    """64-bit indices in 32 bits."""
    yield from _retyped(code, "narrowed index", "int64_t", "int32_t")


_SHARED = (
    comparisons, limits, loops, constants, arithmetic, dropped_terms, dropped_signs, logic, conditions, indices, swapped_arguments,
    extremes, casts, statements,
)
_CPP = (coarse_accumulators, half_variables, narrow_integers)
_CUDA = (cuda_halves, cuda_integers)


def _replace(code: Code, operator: str, first: int, last: int, after: str) -> Edit:
    return Edit(operator, code.tokens[first].start, code.tokens[last].end, after)


def _other_numbers(text: str) -> Iterator[str]:
    """Literals of the same type; none for hexadecimal and binary ones."""
    if match := _INTEGER.fullmatch(text):
        value = int(match["digits"])
        yield from (f"{other}{match['suffix']}" for other in ((value + 1, value - 1) if value else (1,)))
    elif match := _FLOAT.fullmatch(text):
        number = float(match["digits"])
        others = ("1.",) if number == 0 else ("0.", "2.") if number == 1 else ("0.", repr(2 * number))
        yield from (other + match["suffix"] for other in others)


def _binary(code: Code, marks: Container[str]) -> Iterator[int]:
    return (index for index, token in enumerate(code.tokens) if token.text in marks and code.is_binary(index))


def _retyped(code: Code, operator: str, old: str, new: str) -> Iterator[Edit]:
    """Variables that are declared with a value, in another type; parameters and pointers stay."""
    for index, token in enumerate(code.tokens):
        if token.text == old and code.at(index + 2) == "=" and code.tokens[index + 1].kind == "name":
            yield _replace(code, operator, index, index, new)


def _condition_start(code: Code, question: int) -> int:
    """First token of a conditional expression's condition."""
    first = question - 1
    while first > 0:
        opening = code.partner.get(first, first)
        first = min(first, opening)
        before = code.at(first - 1)
        if before in ("=", "(", "[", "{", ",", ";", "return", "?", ":", "+=", "}"):
            return first
        first -= 1
    return first


def _declares(code: Code, bracket: int) -> bool:
    """Whether a square bracket belongs to an array's declaration: the statement has a type and no ``=`` before it."""
    first = bracket
    while first > 0 and code.at(first - 1) not in (";", "{", "}", "(", "="):
        first -= 1
    return code.at(first - 1) != "=" and (code.at(first) in ("const", "constexpr", "__shared__") or code.is_declaration(first, bracket + 1))
