"""What transformers writes down of modules that run, also for those that are not run again.

transformers collects hidden states with hooks on modules, some of them inside of modules that are repeated.
"""

from __future__ import annotations

from typing import Any

import torch


def lengths() -> dict[str, int]:
    """How much has been collected of each kind."""
    return {key: len(items) for key, items in _collected().items()}


def since(before: dict[str, int], inputs: Any) -> dict[str, list[Any]]:
    """What has been collected since, without a first hidden state that is a module's own input."""
    added = {key: items[before.get(key, 0):] for key, items in _collected().items()}
    for key, items in added.items():
        if items and not before.get(key, 0) and any(items[0] is x for x in inputs if isinstance(x, torch.Tensor)):
            del items[0]
    return {key: items for key, items in added.items() if items}


def repeat(added: dict[str, list[Any]]) -> None:
    """Collect the same once more."""
    collected = _collected()
    for key, items in added.items():
        if key in collected:
            collected[key].extend(items)


def _collected() -> dict[str, list[Any]]:
    try:
        from transformers.utils.output_capturing import _active_collector
    except ImportError:
        return {}
    return {key: items for key, items in (_active_collector.get() or {}).items() if isinstance(items, list)}
