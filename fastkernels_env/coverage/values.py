"""Small values that models compute with while they run: sizes of grids, offsets, masks. Tensors of a trace have no data but these."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

MOST_ELEMENTS = 1 << 23
"""Largest tensor whose values are carried along."""
_ATTRIBUTE = "_fastkernels_value"
_RANDOM = ("rand", "normal", "bernoulli", "multinomial", "uniform", "dropout")
_COMPARISONS = ("aten.eq.Scalar", "aten.ne.Scalar")
"""What is not known is equal to no number: a model looks for padding so, of which there is none."""

class Unknown(RuntimeError):
    """A model asks for a value that depends on its weights or inputs."""

def value_of(tensor: torch.Tensor) -> torch.Tensor | None:
    """What a tensor holds; None where that is not known."""
    return tensor if tensor.device.type == "cpu" else getattr(tensor, _ATTRIBUTE, None)

def attach(tensor: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Say what a tensor without data holds."""
    setattr(tensor, _ATTRIBUTE, value)
    return tensor

def known(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor without data that stands for one with data."""
    return attach(torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta"), tensor)

def compute(func: Any, args: Any, kwargs: Any, result: Any) -> None:
    """Carry values along: attach what an operator makes of known values to its result."""
    outputs = [x for x in _flat(result) if isinstance(x, torch.Tensor)]
    inputs = [x for x in _flat((args, kwargs)) if isinstance(x, torch.Tensor)]
    if str(func) in _COMPARISONS and value_of(inputs[0]) is None and inputs[0].is_floating_point():
        attach(outputs[0], torch.tensor(str(func) == "aten.ne.Scalar", device="cpu").expand(outputs[0].shape))
        return
    if _worthwhile(func, inputs, outputs):
        real_args, real_kwargs = tree_map(_real, (args, kwargs))
        try:
            values = [x for x in _flat(func(*real_args, **real_kwargs)) if isinstance(x, torch.Tensor)]
        except Exception:
            values = []
        if len(values) == len(outputs) and all(v.shape == o.shape for v, o in zip(values, outputs, strict=True)):
            for output, value in zip(outputs, values, strict=True):
                attach(output, value)
            return
    for output in outputs:
        if hasattr(output, _ATTRIBUTE):  # written to in place, by something that is not known
            delattr(output, _ATTRIBUTE)

def answer(func: Any, args: Any, kwargs: Any) -> Any:
    """The result of an operator whose shape or value depends on data.

    Raises:
        Unknown: The data is not known.
    """
    inputs = [x for x in _flat((args, kwargs)) if isinstance(x, torch.Tensor)]
    if any(value_of(x) is None for x in inputs):
        if inputs and inputs[0].dtype == torch.bool and inputs[0].numel() == 1 and "local_scalar" in str(func):
            return False
        if str(func) == "aten.nonzero.default" and inputs[0].dtype == torch.bool:
            return known(torch.ones(inputs[0].shape, dtype=torch.bool, device="cpu").nonzero())  # a mask selects all
        raise Unknown(f"{func} depends on data")
    real_args, real_kwargs = tree_map(_real, (args, kwargs))
    result = func(*real_args, **real_kwargs)
    return tree_map(lambda x: known(x) if isinstance(x, torch.Tensor) else x, result)

def _worthwhile(func: Any, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> bool:
    name = str(func)
    if not outputs or any(word in name for word in _RANDOM) or ("empty" in name and outputs[0].is_floating_point()):
        return False  # what is made empty and of integers is filled in place by what is known
    known_inputs = [value_of(x) for x in inputs]
    sizes = [*(_memory(x) for x in known_inputs if x is not None), *(math.prod(x.shape) for x in outputs)]
    return max(sizes) <= MOST_ELEMENTS and all(x is not None for x in known_inputs)

def _memory(tensor: torch.Tensor) -> int:
    """Elements that a tensor has memory for: an expanded dimension has one."""
    return math.prod(size if stride else 1 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))

def _real(x: Any) -> Any:
    if isinstance(x, torch.Tensor):
        return value_of(x)
    return torch.device("cpu") if isinstance(x, torch.device) else x

def _flat(tree: Any) -> Iterable[Any]:
    return tree_leaves(tree)
