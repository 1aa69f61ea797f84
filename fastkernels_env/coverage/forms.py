"""Inputs of types that take them in a form of their own, by the step that they are for."""

from __future__ import annotations

from typing import Any

import torch

from . import forms_images, forms_others
from .inputs import Context, Sizes

FORMS = forms_images.FORMS | forms_others.FORMS
"""By model type and step. Where the table says nothing, `inputs.py` tries what arguments of that name usually take."""


def given(config: Any, step: str, batch: int, length: int) -> dict[str, Any] | None:
    """The arguments of a step of a model; None if its type has no form of its own.

    Args:
        config: The model's configuration.
        step: ``prefill``, ``decode``, ``encode``, ``batch``, ``image`` or ``audio``.
        batch: How many sequences, images or recordings.
        length: Tokens of a sequence.
    """
    form = FORMS.get(config.model_type, {}).get(step)
    if form is None:
        return None
    with torch.device("cpu"):
        return form(Context(Sizes(config), batch, length, frozenset()))
