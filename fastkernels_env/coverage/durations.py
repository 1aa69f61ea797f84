"""How long each sound of a sentence lasts, which models of speech ask their own predictions for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from . import values

FRAMES = 7
"""Frames that each sound is taken to last: about 80 ms."""
_PREDICTORS = {
    "FastSpeech2ConformerDurationPredictor": float(FRAMES),
    "VitsDurationPredictor": math.log(FRAMES - 0.5),  # rounded up by the model
    "VitsStochasticDurationPredictor": math.log(FRAMES - 0.5),
}
"""Modules that predict durations, and what they return for one of that many frames."""


@contextmanager
def even(model: torch.nn.Module) -> Iterator[None]:
    """Within it, every sound that a model speaks lasts equally long."""
    changed = [module for module in model.modules() if type(module).__name__ in _PREDICTORS]
    for module in changed:
        module.forward = _predictor(module.forward, _PREDICTORS[type(module).__name__])
    try:
        yield
    finally:
        for module in changed:
            del module.forward


def _predictor(forward: Callable[..., torch.Tensor], duration: float) -> Callable[..., torch.Tensor]:
    def predict(*args: Any, **kwargs: Any) -> torch.Tensor:
        result = forward(*args, **kwargs)
        return values.attach(result, torch.full(result.shape, duration, dtype=result.dtype, device="cpu"))

    return predict
