"""Terms: pure functions from an evaluation to one number, and the registry that presets take them from.

A new term is one function::

    from fastkernels_env.reward import term

    @term(low=0.0, high=1.0)
    def own_kernels(evaluation):
        \"\"\"Share of device time in the submission's own kernels.\"\"\"
        return evaluation.own_kernel_share or 0.0

and is used from a preset as ``term = "own_kernels"``. A value outside the declared range is clipped to it, because the bands of a
preset are proved from that range.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import overload

import msgspec

from ..types import Evaluation, Evidence, Status
from .grade import Grade, speed_side

TermFunction = Callable[[Evaluation], float]
Range = tuple[float, float]


class Term(msgspec.Struct, frozen=True):
    """A registered term: its function and the range of its values, which a grade may narrow."""

    name: str
    function: TermFunction
    range: Range
    by_grade: tuple[tuple[Grade, Range], ...] = ()

    def range_in(self, grade: Grade) -> Range:
        """The lowest and highest value that the term can have in that grade."""
        return dict(self.by_grade).get(grade, self.range)


class FailedChecks(msgspec.Struct, frozen=True):
    """The term ``failed_checks``: what the failed checks of an evaluation cost, each at its own price.

    ``min(1, sum of the prices of the failed checks)``, 0 to 1. A check that has no price costs nothing; one that was not run has
    not failed. Both kinds of evidence count: what the submission's own process says can count against it.
    """

    prices: tuple[tuple[str, float], ...]

    def __call__(self, evaluation: Evaluation) -> float:
        """The cost of an evaluation."""
        failed = {check.name for check in evaluation.checks if check.status is Status.FAILED}
        return min(1.0, math.fsum(price for name, price in self.prices if name in failed))

    def term(self) -> Term:
        """It as a term of a preset."""
        return Term(FAILED_CHECKS, self, (0.0, min(1.0, math.fsum(price for _, price in self.prices))))


FAILED_CHECKS = "failed_checks"
_terms: dict[str, Term] = {}


@overload
def term(function: TermFunction, /) -> TermFunction: ...


@overload
def term(
    *, low: float = 0.0, high: float = 1.0, by_grade: Mapping[str, Range] | None = None
) -> Callable[[TermFunction], TermFunction]: ...


def term(
    function: TermFunction | None = None, /, *, low: float = 0.0, high: float = 1.0, by_grade: Mapping[str, Range] | None = None
) -> TermFunction | Callable[[TermFunction], TermFunction]:
    """Register a function as a term, under its own name. Use it bare (range 0 to 1) or with a range.

    Args:
        function: Takes an `Evaluation`, returns a number; no state, no randomness.
        low: Lowest value; may be ``-math.inf``, then presets must clip the term.
        high: Highest value; may be ``math.inf``.
        by_grade: Narrower ranges that hold in single grades.

    Returns:
        The function itself, unchanged.

    Raises:
        ValueError: Another function has that name already, or a range is not one.
    """
    def register(function: TermFunction) -> TermFunction:
        name = function.__name__
        if name == FAILED_CHECKS:
            raise ValueError(f"{name!r} is a term of the library, which takes its prices from the preset; give this function another name")
        known = _terms.get(name)
        if known is not None and _home(known.function) != _home(function):
            raise ValueError(f"there is a term {name!r} already, in {known.function.__module__}; give this function another name")
        ranges = tuple((Grade(grade), _range(name, *bounds)) for grade, bounds in (by_grade or {}).items())
        _terms[name] = Term(name, function, _range(name, low, high), ranges)
        return function

    return register if function is None else register(function)


def get_term(name: str) -> Term | None:
    """The term of that name, or None."""
    return _terms.get(name)


def term_names() -> tuple[str, ...]:
    """Names of all registered terms, sorted."""
    return tuple(sorted([*_terms, FAILED_CHECKS]))


def _home(function: TermFunction) -> tuple[str, str]:
    return function.__module__, function.__qualname__


def _range(name: str, low: float, high: float) -> Range:
    if not low <= high:
        raise ValueError(f"term {name!r}: expected a range with low <= high, got {low} and {high}")
    return float(low), float(high)


@term(low=1.0, high=1.0)
def constant(evaluation: Evaluation) -> float:
    """1, always. With a weight per grade it sets where each grade's band begins."""
    return 1.0


@term
def workloads_right(evaluation: Evaluation) -> float:
    """Share of the verified cases that were right: ``evaluation.workloads_right``, 0 to 1; NaN counts as 0."""
    share = evaluation.workloads_right
    return min(1.0, share) if share > 0 else 0.0


@term
def checks_green(evaluation: Evaluation) -> float:
    """``passed / ran``, 0 to 1; 0 if no check ran.

    ``passed`` counts the checks that the judge saw pass. ``ran`` counts those plus every failed check. A check that was not run
    is in neither, and a pass that only the submission's own process reported is no evidence, so it is in neither as well.
    """
    passed = sum(check.status is Status.PASSED and check.evidence is Evidence.JUDGED for check in evaluation.checks)
    failed = sum(check.status is Status.FAILED for check in evaluation.checks)
    return passed / (passed + failed) if passed else 0.0


@term(
    low=-math.inf,
    high=math.inf,
    by_grade={Grade.SLOWER: (-math.inf, 0.0), Grade.PARITY: (0.0, 0.0), Grade.FASTER: (0.0, math.inf)},
)
def speed(evaluation: Evaluation) -> float:
    """Natural logarithm of the speedup that is certain, unbounded.

    ``log(low)`` if the whole interval lies above 1, ``log(high)`` if it lies below, else 0: parity is "the interval contains 1".
    0 too where no speed was measured.
    """
    side = speed_side(evaluation.speedup)
    if evaluation.speedup is None or side == 0:
        return 0.0
    bound = evaluation.speedup.low if side > 0 else evaluation.speedup.high
    return math.log(bound) if bound > 0 else -math.inf
