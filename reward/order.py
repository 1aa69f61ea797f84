"""Orders that a preset can promise. They are proved from the reach of its parts, so they hold whatever a term returns."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from .grade import Grade
from .preset import Preset, PresetError

MARGIN = 1e-3
"""Smallest gap between bands that must differ: it survives float32."""


class Step(NamedTuple):
    """The next higher band: the grades that share it, and whether it may touch the band below."""

    grades: tuple[Grade, ...]
    strict: bool


PRODUCTION = (
    Step((Grade.TAMPERED,), strict=True),
    Step((Grade.SILENT_ERROR,), strict=True),
    Step((Grade.REJECTED,), strict=True),
    Step((Grade.BUILD_FAILED,), strict=False),
    Step((Grade.CRASHED, Grade.TIMED_OUT), strict=False),
    Step((Grade.WRONG,), strict=False),
    Step((Grade.STACK_CONFLICT,), strict=True),
    Step((Grade.UNMEASURED,), strict=True),
    Step((Grade.SLOWER,), strict=False),
    Step((Grade.PARITY,), strict=True),
    Step((Grade.FASTER,), strict=True),
)
"""Worst first: a silent error is worse than a loud one, and below it is only cheating."""

GENTLE = (
    Step((Grade.TAMPERED,), strict=True),
    Step((Grade.REJECTED,), strict=True),
    Step((Grade.BUILD_FAILED,), strict=False),
    Step((Grade.CRASHED, Grade.TIMED_OUT), strict=False),
    Step((Grade.SILENT_ERROR,), strict=True),
    Step((Grade.WRONG,), strict=True),
    *PRODUCTION[6:],
)
"""The same, but a silent error is better than code that does not build or dies, and worse than code that is wrong for all to see."""


def check_order(steps: Sequence[Step], preset: Preset, where: str) -> None:
    """Raise `PresetError` unless the bands keep an order and cheating always earns exactly the floor.

    Args:
        steps: The order, worst first.
        preset: The preset to prove.
        where: The file it comes from, for the message.
    """
    floor = preset.bounds[0]
    if preset.band(Grade.TAMPERED) != (floor, floor):
        low, high = preset.band(Grade.TAMPERED)
        raise PresetError(
            f"{where}: parts: 'tampered' must always earn exactly the lower bound {floor:g}, but it earns {low:g} to {high:g}; "
            "give it that value in one constant part and no weight in the others"
        )
    for step in steps:
        for part in preset.parts:
            if len({(part.weight(grade), part.values(grade)) for grade in step.grades}) > 1:
                raise PresetError(
                    f"{where}: parts.{part.name}.weight: {_names(step.grades)} share one band and one rule, so give them one weight"
                )
    for below, above in itertools.pairwise(steps):
        high, low = preset.band(below.grades[0])[1], preset.band(above.grades[0])[0]
        if low < high + (MARGIN if above.strict else 0.0):
            raise PresetError(
                f"{where}: parts: {_names(above.grades)} must rank {'above' if above.strict else 'no lower than'} "
                f"{_names(below.grades)}, but begins at {low} and {_names(below.grades)} ends at {high}; "
                f"change their weights{f' until they are {MARGIN:g} apart' if above.strict else ''}"
            )


def _names(grades: tuple[Grade, ...]) -> str:
    return " and ".join(repr(grade.value) for grade in grades)


ORDERS: Mapping[str, Callable[[Preset, str], None]] = {
    "production": partial(check_order, PRODUCTION), "gentle": partial(check_order, GENTLE),
}
"""Every order that a preset may name in its key ``order``."""
