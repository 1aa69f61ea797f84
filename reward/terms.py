"""Terms that see what the judge saw: verification, the compile stack, and the speed that is certain."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..checks import BY_NAME
from ..types import Evaluation, Evidence, Status
from .grade import Grade, speed_side
from .registry import term


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


def _check_prices(arguments: Mapping[str, Any]) -> None:
    prices = arguments.get("prices")
    if not isinstance(prices, dict) or not prices:
        raise ValueError(f"prices: expected a table of check names and prices, such as {{canaries = 0.5}}, got {prices!r}")
    for name, price in prices.items():
        if name not in BY_NAME:
            raise ValueError(f"prices: unknown check {name!r}; known are: {', '.join(BY_NAME)}")
        if isinstance(price, bool) or not isinstance(price, int | float) or not 0 <= price <= 1:
            raise ValueError(f"prices.{name}: expected a price between 0 and 1, got {price!r}")


@term(check=_check_prices)
def failed_checks(evaluation: Evaluation, *, prices: dict[str, float]) -> float:
    """What the failed checks of an evaluation cost, each at its own price: ``min(1, sum of their prices)``, 0 to 1.

    A check that has no price costs nothing; one that was not run has not failed. Both kinds of evidence count: what the submission's
    own process says can count against it.

    Args:
        evaluation: The record.
        prices: Price by check, each 0 to 1.
    """
    failed = {check.name for check in evaluation.checks if check.status is Status.FAILED}
    return min(1.0, math.fsum(price for name, price in prices.items() if name in failed))


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
