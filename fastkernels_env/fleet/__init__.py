"""Judges on the hosts of a Ray cluster, behind the interface of the local evaluator. Nothing else of the library imports ray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .fleet import Fleet

__all__ = ["Fleet"]


def __getattr__(name: str) -> Any:
    """Ray, which takes a second to import, is imported with the first fleet."""
    if name != "Fleet":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .fleet import Fleet

    return Fleet
