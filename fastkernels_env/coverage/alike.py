"""Which modules of a model are alike, so that one of them stands for all."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_leaves

_NUMBERS = ("idx", "index", "layer_id")
"""Parts of the names of settings that number layers and do not change what they do."""


def repeated(model: torch.nn.Module) -> dict[int, Any]:
    """Of each module in a list of several: what makes it like another."""
    found: dict[int, Any] = {}
    for parent in model.modules():
        if isinstance(parent, torch.nn.ModuleList | torch.nn.Sequential) and len(parent) > 1:
            for child in parent:
                if child is not None:
                    found[id(child)] = _signature(child)
    return found


def _signature(module: torch.nn.Module) -> Any:
    return tuple(
        (name, type(part).__name__, tuple((n, tuple(p.shape)) for n, p in part._parameters.items() if p is not None), _settings(part))
        for name, part in module.named_modules()
    )


def _settings(module: torch.nn.Module) -> tuple[tuple[str, object], ...]:
    return tuple(
        (name, value) for name, value in module.__dict__.items()
        if (isinstance(value, bool | int | str) or _is_size(value))
        and not name.startswith("_") and not any(word in name for word in _NUMBERS)
    )


def _is_size(value: object) -> bool:
    """Whether it is the size of a kernel, a step, a padding."""
    return isinstance(value, tuple) and 0 < len(value) <= 3 and all(isinstance(x, int) for x in value)


def shapes(names: tuple[str, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """What a module's outputs depend on: shapes and types of its tensors, and plain values, but for the number of a layer.

    Args:
        names: Of the arguments that may come by position.
        args: Those that do.
        kwargs: The others.
    """
    named = [(names[i] if i < len(names) else "", x) for i, x in enumerate(args)]
    return tuple(_shape(leaf) for name, x in (*named, *kwargs.items()) if not _numbers_a_layer(name, x) for leaf in tree_leaves(x))


def _numbers_a_layer(name: str, x: object) -> bool:
    return isinstance(x, int) and any(word in name for word in _NUMBERS)


def _shape(x: Any) -> Any:
    if isinstance(x, torch.Tensor):
        return tuple(x.shape), x.dtype
    return x if isinstance(x, bool | int | str | None) else type(x).__name__
