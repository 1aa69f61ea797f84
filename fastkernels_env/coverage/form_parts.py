"""What inputs in a form of their own are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .inputs import FRAMES, TOKEN, Context, floats
from .values import known

Form = Callable[[Context], dict[str, Any]]
"""Makes the arguments of one step of a model."""


def whole(*shape: int, value: int = 1) -> torch.Tensor:
    """Integers that are all the same."""
    return known(torch.full(shape, value))


def mask(*shape: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    """A mask that leaves nothing out, without memory for each element."""
    return known(torch.ones((), dtype=dtype).expand(shape))


def prompt(c: Context, token: int, count: int) -> torch.Tensor:
    """Prompts that begin with the places of an image's or a recording's tokens."""
    tokens = torch.full((c.batch, max(c.length, count)), TOKEN)
    tokens[:, :count] = token
    return known(tokens)


def sounds(c: Context) -> dict[str, Any]:
    """Spectrograms of 30 seconds, as Gemma takes them."""
    return {"input_features": floats(c.batch, FRAMES, 128), "input_features_mask": mask(c.batch, FRAMES, dtype=torch.bool)}
