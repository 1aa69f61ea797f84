"""Presets from TOML files, checked key by key.

A preset file holds ``summary``, ``bounds = [low, high]``, and one table ``[parts.<name>]`` per part of the reward:

* ``term``: name of a registered term.
* ``weight``: a number for every grade, or a table with a number per grade; a grade that is not in the table is gated out.
* ``gate``: beside a single number, the list of grades it is paid in.
* ``clip``: ``[low, high]``, limits of the term's value before it is weighted; needed where the term has no range of its own.
* the term's parameters, where it has some: ``prices`` of ``failed_checks``, ``baseline`` of ``speedup_over``.

``bounds`` are proved from the ranges, clips and weights when the file is loaded.

Optional at the top: ``order = "production"`` (the bands must keep that order, or the file is refused), ``modules``, the names of
Python modules to import first because they define terms, and the table ``[credit]`` with ``kind`` and ``gamma``: how the scores of an
episode's turns become rewards.
"""

from __future__ import annotations

import importlib
import math
import os
import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from .credit import Credit
from .grade import Grade
from .order import ORDERS
from .preset import Part, Preset, PresetError
from .registry import RESERVED, Definition, Range, Term, get_term, term_names

_FOLDER = Path(__file__).parent / "presets"
_MAX_WEIGHT = 1e6
_PART_NAME = re.compile(r"[a-z][a-z0-9_]*")
_T = TypeVar("_T", bound=msgspec.Struct)


class _File(msgspec.Struct, forbid_unknown_fields=True):
    summary: str
    bounds: tuple[float, float]
    parts: dict[str, Any]
    order: str = ""
    modules: list[str] = []
    credit: Any = {}


class _Table(msgspec.Struct, forbid_unknown_fields=True):
    term: str
    weight: Any = 1.0
    gate: list[str] | None = None
    clip: tuple[float, float] | None = None


def preset_names() -> tuple[str, ...]:
    """Names of the presets that come with the library, sorted."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def load_preset(name_or_path: str | os.PathLike[str]) -> Preset:
    """A preset by name, or from a TOML file.

    Args:
        name_or_path: One of `preset_names`, or a path (anything that ends in ``.toml`` or holds a path separator).

    Returns:
        The preset, whose bounds and order are proved.

    Raises:
        PresetError: No such preset, or a file that cannot be used; the message names the file and the key.
    """
    text = os.fspath(name_or_path)
    if text in preset_names():
        return _build(_FOLDER / f"{text}.toml")
    if text.endswith(".toml") or os.sep in text:
        return _build(Path(text))
    raise PresetError(f"unknown preset {text!r}; known are: {', '.join(preset_names())}; or pass the path of a .toml file")


def _build(path: Path) -> Preset:
    file = _convert(_read(path), _File, path)
    for module in file.modules:
        try:
            importlib.import_module(module)
        except Exception as error:
            raise PresetError(f"{path}: modules: {module!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not -math.inf < file.bounds[0] < file.bounds[1] < math.inf:
        raise PresetError(f"{path}: bounds: expected two finite numbers [low, high] with low < high, got {list(file.bounds)}")
    if not file.parts:
        raise PresetError(f"{path}: parts: expected at least one table [parts.<name>]")
    parts = tuple(_part(name, table, path) for name, table in file.parts.items())
    credit = _convert(file.credit, Credit, path, "credit")
    preset = Preset(
        name=path.stem, summary=file.summary, bounds=file.bounds, parts=parts, order=file.order, credit=credit, file=str(path)
    )
    _check_bounds(preset, str(path))
    if file.order:
        if file.order not in ORDERS:
            raise PresetError(f"{path}: order: unknown order {file.order!r}; known are: {', '.join(ORDERS)}")
        ORDERS[file.order](preset, str(path))
    return preset


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise PresetError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise PresetError(f"{path}: is not TOML: {error}") from error


def _convert(data: Any, kind: type[_T], path: Path, key: str = "", others: tuple[str, ...] = ()) -> _T:
    """The data of a key as a struct; `others` are keys beside it, for the message."""
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        said, _, inner = str(error).partition(" - at `$")
        where = ".".join(filter(None, (key, inner.strip("`.")))) or "top level"
        keys = "" if inner else f"; known keys are: {', '.join((*others, *kind.__struct_fields__))}"
        raise PresetError(f"{path}: {where}: {said}{keys}") from error


def _part(name: str, data: Any, path: Path) -> Part:
    key = f"parts.{name}"
    where = f"{path}: {key}"
    if not _PART_NAME.fullmatch(name) or name == "total":
        raise PresetError(f"{where}: a part's name is lower-case letters, digits and underscores, and not 'total'")
    if not isinstance(data, dict):
        raise PresetError(f"{where}: expected a table with the key term, got {data!r}")
    table = _convert({name: value for name, value in data.items() if name in RESERVED}, _Table, path, key)
    definition = get_term(table.term)
    if definition is None:
        raise PresetError(
            f"{where}.term: unknown term {table.term!r}; known are: {', '.join(term_names())}; "
            "if a module of yours defines it, name that module under the top-level key modules"
        )
    term = _bind(definition, {name: value for name, value in data.items() if name not in RESERVED}, path, key)
    return Part(name=name, term=term, weights=_weights(table, where), clip=_clip(table.clip, term, where))


def _bind(definition: Definition, arguments: dict[str, Any], path: Path, key: str) -> Term:
    _check_finite(arguments, f"{path}: {key}")
    if definition.check is not None:
        try:
            definition.check(arguments)
        except ValueError as error:
            raise PresetError(f"{path}: {key}.{error}") from error
    return definition.bind(_convert(arguments, definition.parameters, path, key, RESERVED))


def _check_finite(value: Any, where: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise PresetError(f"{where}: expected a finite number, got {value!r}")
    for key, inner in value.items() if isinstance(value, dict) else ():
        _check_finite(inner, f"{where}.{key}")
    for index, inner in enumerate(value) if isinstance(value, list) else ():
        _check_finite(inner, f"{where}[{index}]")


def _weights(table: _Table, where: str) -> tuple[tuple[Grade, float], ...]:
    if not isinstance(table.weight, dict):
        grades = list(Grade) if table.gate is None else [_grade(name, f"{where}.gate") for name in table.gate]
        return tuple((grade, _number(table.weight, f"{where}.weight")) for grade in grades)
    if table.gate is not None:
        raise PresetError(f"{where}.gate: a table of weights is a gate already; drop the gate or give a single weight")
    where = f"{where}.weight"
    return tuple((_grade(name, where), _number(value, f"{where}.{name}")) for name, value in table.weight.items())


def _grade(name: str, where: str) -> Grade:
    try:
        return Grade(name)
    except ValueError as error:
        raise PresetError(
            f"{where}: unknown grade {name!r}; known are: {', '.join(Grade)} (the last three are kinds of 'accepted'; "
            "a fault has no reward)"
        ) from error


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _MAX_WEIGHT:
        raise PresetError(f"{where}: expected a number between -{_MAX_WEIGHT:g} and {_MAX_WEIGHT:g}, got {value!r}")
    return float(value)


def _clip(clip: Range | None, term: Term, where: str) -> Range:
    low, high = clip or term.range
    if not term.range[0] <= low <= high <= term.range[1]:
        raise PresetError(
            f"{where}.clip: expected [low, high] with low <= high, inside the range {list(term.range)} of term {term.name!r}, "
            f"got {[low, high]}"
        )
    return low, high


def _check_bounds(preset: Preset, where: str) -> None:
    for grade in Grade:
        low, high = preset.band(grade)
        if not (preset.bounds[0] <= low and high <= preset.bounds[1]):
            raise PresetError(
                f"{where}: parts: {grade.value!r} earns {low:g} to {high:g}, outside the bounds {list(preset.bounds)}; "
                "lower a weight, clip a term or widen the bounds"
            )
