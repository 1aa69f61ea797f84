"""Modes of torch that hand on what they see: functions before they are called, operators after they have run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

SeeFunction = Callable[[Any, Sequence[Any], Mapping[str, Any]], None]
SeeOperator = Callable[[str, Mapping[str, Any], Any], None]


class Functions(TorchFunctionMode):
    """Calls `see` with every function of torch, such as ``scaled_dot_product_attention``, and its arguments."""

    def __init__(self, see: SeeFunction) -> None:
        super().__init__()
        self._see = see

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._see(function, args, kwargs or {})
        return function(*args, **(kwargs or {}))


class Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Calls `see` with name (``aten::add``), arguments by name, and result of every operator."""

    def __init__(self, see: SeeOperator) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._see = see

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        names = [argument.name for argument in function._schema.arguments]
        self._see(function._schema.name, {**dict(zip(names, args, strict=False)), **(kwargs or {})}, output)
        return output
