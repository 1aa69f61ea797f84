"""Watches a torch program and records the ops that tasks mirror.

Nothing in the program changes: hooks that torch calls for every module, a mode that sees functions, and one that sees operators. It may
run with real tensors (then values are looked at too) or with meta or fake ones (then shapes are all there is). One thread is watched;
what `torch.compile` has compiled is not.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType, TracebackType
from typing import Any, Self

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.weak import WeakIdKeyDictionary

from . import describe, matching
from .modes import Functions, Operators
from .observation import Book, Observation
from .ops import Op
from .situations import Batch

_ROTATE = "apply_rotary_pos_emb"
"""Function that the models of `transformers` rotate query and key with, each in a module of its own."""
_FUNCTIONS = {
    nn.functional.scaled_dot_product_attention: "attention", nn.functional.rms_norm: "rms_norm", torch.rms_norm: "rms_norm",
    nn.functional.linear: "linear",
}


@dataclass
class _Frame:
    """A module that is running, and the linear layers in it that production might run as one."""

    module: nn.Module
    kind: str
    path: str
    pending: list[tuple[str, nn.Module, torch.Tensor]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Its name in its parent; empty if that is a number."""
        return self.path.rpartition(".")[2].strip("*")


class Recorder:
    """Records while it is entered; may be entered again, and then goes on.

    Attributes:
        book: What was seen.
    """

    def __init__(self) -> None:
        self.book = Book()
        self._frames: list[_Frame] = []
        self._kinds: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._names: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._sums: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._gates: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._replaced: list[tuple[ModuleType, Callable[..., Any]]] = []
        self._paused = False
        self._open = contextlib.ExitStack()

    @property
    def observations(self) -> list[Observation]:
        """What was seen, in the order of first sight."""
        return self.book.observations

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.callback(self._restore)
            stack.callback(register_module_forward_pre_hook(self._enter_module).remove)
            stack.callback(register_module_forward_hook(self._leave_module, with_kwargs=True, always_call=True).remove)
            stack.enter_context(Functions(self._see_function))
            stack.enter_context(Operators(self._see_operator))
            self._open = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open.close()

    @contextlib.contextmanager
    def step(self, batch: Batch) -> Iterator[None]:
        """What runs inside is one step that stands for `batch`: its calls count so many times, its caches have those lengths."""
        self.book.turn(batch)
        try:
            yield
        finally:
            self.book.turn(None)

    def _add(
        self, op: Op, tensors: Mapping[str, torch.Tensor], routing: torch.Tensor | None = None, lengths: list[int] | None = None
    ) -> None:
        with self._unseen():
            self.book.add(op, tensors, routing, lengths)

    @contextlib.contextmanager
    def _unseen(self) -> Iterator[None]:
        """What runs inside is ours and not recorded."""
        before, self._paused = self._paused, True
        try:
            with torch.no_grad():
                yield
        finally:
            self._paused = before

    # -- modules ---------------------------------------------------------------------------------------------------------------

    def _enter_module(self, module: nn.Module, args: Any) -> None:
        if module not in self._kinds:
            self._kinds[module] = describe.kind_of(module)
        self._frames.append(_Frame(module, self._kinds[module], self._path(module)))
        self._watch_rotation(type(module).__module__)

    def _path(self, module: nn.Module) -> str:
        """Where a module sits in the outermost one that is running, with layer numbers as ``*``."""
        root = self._frames[0].module if self._frames else module
        if root not in self._names:
            self._names[root] = {id(child): name for name, child in root.named_modules()}
        name = self._names[root].get(id(module), type(module).__name__)
        return ".".join("*" if bit.isdigit() else bit for bit in name.split("."))

    def _leave_module(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None, output: Any = None) -> None:
        frame = self._frames.pop()
        while frame.module is not module and self._frames:  # an exception went past those above
            frame = self._frames.pop()
        if kwargs is None:
            return  # the module raised: torch gives no keyword arguments then
        inputs = describe.tensors_of(args, kwargs)
        if inputs and not self._inside("experts", "linear"):
            self._record(frame, inputs, kwargs)
        self._flush(frame)

    def _record(self, frame: _Frame, inputs: list[torch.Tensor], kwargs: dict[str, Any]) -> None:
        x = inputs[0]
        match frame.kind:
            case "rms_norm":
                self._add(describe.norm(frame.module, inputs, frame.name, frame.path, x in self._sums), {"input": x})
            case "silu_and_mul":
                op = Op(op=frame.kind, module=type(frame.module).__name__, path=frame.path, tensors={"input": describe.spec(x)})
                self._add(op, {"input": x})
            case "linear":
                self._linear(frame, x)
            case "mlp":
                self._add(describe.mlp(frame.module, x, frame.path), {"input": x})
            case "experts":
                ids = next((tensor for tensor in inputs[1:] if not tensor.is_floating_point()), None)
                self._add(describe.experts(frame.module, inputs, frame.path), {"input": x}, routing=ids)
            case "attention":
                attended = describe.attention(frame.module, x, frame.path)
                if attended is not None:
                    with self._unseen():
                        lengths = describe.cached(frame.module, kwargs, x)
                    self._add(attended, {}, lengths=lengths)

    def _linear(self, frame: _Frame, x: torch.Tensor) -> None:
        parent = self._frames[-1] if self._frames else None
        group = next((group for group, names in describe.FUSED.items() if frame.name in names), None)
        if parent is not None and group and all(hasattr(parent.module, name) for name in describe.FUSED[group]):
            parent.pending.append(("gate-up" if group == "w13" else group, frame.module, x))
        else:
            routes = type(frame.module).__name__.endswith("Router")
            self._add(describe.linear([frame.module], x, "router" if routes else describe.part(frame.name), frame.path), {"input": x})
            if routes and (chosen := describe.router(frame.module, x, frame.path)):
                self._add(chosen, {})

    def _flush(self, frame: _Frame) -> None:
        """Record the linear layers that a module ran side by side: as one where they had the same input."""
        while frame.pending:
            group, _, x = frame.pending[0]
            together = [module for other, module, theirs in frame.pending if other == group and theirs is x]
            frame.pending = [entry for entry in frame.pending if not (entry[0] == group and entry[2] is x)]
            self._add(describe.linear(together, x, group, f"{frame.path}.{group}"), {"input": x})

    def _inside(self, *kinds: str) -> bool:
        """Whether a module of such a kind is running: what it does inside is its own affair."""
        return any(frame.kind in kinds for frame in self._frames)

    # -- rotary embeddings, which `transformers` has as functions ----------------------------------------------------------------

    def _watch_rotation(self, name: str) -> None:
        module = sys.modules.get(name)
        function = getattr(module, _ROTATE, None)
        if module is None or function is None or any(known is module for known, _ in self._replaced):
            return

        @functools.wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            given = describe.tensors_of(args, kwargs)
            if len(given) >= 3 and given[0].dim() == 4 and self._frames and not self._paused:
                frame = self._frames[-1]
                self._add(describe.rope(frame.module, given[0], given[1], given[2], frame.path), {})
            return function(*args, **kwargs)

        setattr(module, _ROTATE, watched)
        self._replaced.append((module, function))

    def _restore(self) -> None:
        for module, function in self._replaced:
            setattr(module, _ROTATE, function)
        self._replaced.clear()
        self._frames.clear()

    # -- functions and operators -------------------------------------------------------------------------------------------------

    def _see_function(self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """A torch function is called. What a module says has been seen already, or will be."""
        name = _FUNCTIONS.get(function)
        if self._paused or name is None:
            return
        inputs = describe.tensors_of(args, kwargs)
        x = inputs[0]
        if name == "attention" and not self._inside("attention"):
            masked = len(inputs) > 3  # a tensor beside query, key and value
            causal = bool(args[5] if len(args) > 5 else kwargs.get("is_causal"))
            op = describe.scaled_dot_product(x, inputs[1], masked, causal, self._place()[1])
            self._add(op, {"query": x}, lengths=[int(inputs[1].shape[-2])] * op.tensors["query"].shape[0])
        elif name == "rms_norm" and not self._inside("rms_norm", "norm"):
            self._call("add_rms_norm" if x in self._sums else "rms_norm", input=x)
        elif name == "linear" and not self._inside("linear", "experts") and inputs[1].dim() == 2:
            self._call("linear", input=x, weight=inputs[1])

    def _see_operator(self, name: str, arguments: Mapping[str, Any], output: Any) -> None:
        """A torch operator has run."""
        if self._paused:
            return
        self.book.tally(name)
        tensors = [value for value in arguments.values() if isinstance(value, torch.Tensor)]
        alike = len(tensors) == 2 and tensors[0].shape == tensors[1].shape
        match name.removesuffix("_"):
            case "aten::add" if alike:
                self._sums[output] = True
            case "aten::silu":
                self._gates[output] = "silu_and_mul"
            case "aten::gelu" if arguments.get("approximate") == "tanh":
                self._gates[output] = "gelu_tanh_and_mul"
            case "aten::mul" if alike and not self._inside("experts", "norm", "silu_and_mul"):
                if gate := next((self._gates[tensor] for tensor in tensors if tensor in self._gates), ""):
                    self._call(gate, half=tensors[0])
            case "aten::native_layer_norm" if len(arguments["normalized_shape"]) == 1 and len(tensors) == 3:
                self._call("layer_norm", input=tensors[0])
            case _ if not name.startswith(("aten::", "prim::", "prims::")) and not self._inside(matching.COVERED_BY.get(name, name)):
                self._custom(name, arguments)

    def _call(self, op: str, **tensors: torch.Tensor) -> None:
        """Record a call by its tensors alone, where it is made."""
        module, path = self._place()
        specs = {role: describe.spec(tensor) for role, tensor in tensors.items()}
        self._add(Op(op=op, module=module, path=path, tensors=specs), {role: t for role, t in tensors.items() if role != "weight"})

    def _place(self) -> tuple[str, str]:
        """Class and path of the module that is running."""
        return (type(self._frames[-1].module).__name__, self._frames[-1].path) if self._frames else ("function", "")

    def _custom(self, name: str, arguments: Mapping[str, Any]) -> None:
        tensors = {key: value for key, value in arguments.items() if isinstance(value, torch.Tensor)}
        numbers = {key: float(value) for key, value in arguments.items() if isinstance(value, int | float)}
        specs = {key: describe.spec(value) for key, value in tensors.items()}
        module, path = self._place()
        self._add(Op(op=name, module=module, path=path, tensors=specs, numbers=numbers), tensors)
