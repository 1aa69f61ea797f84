"""Run a model without data and note what a device would have to do.

Every tensor lives on torch's ``meta`` device: shapes without memory. A module that repeats one seen before in the same list, with
inputs of the same shapes, isn't run again: its twin's outputs are handed out and the twin's calls count once more.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from . import capturing, values
from .alike import repeated, shapes
from .observations import Call, Frame, Traffic
from .work import flops_of

_MODULE_CALL = "torch/nn/modules/module.py"
_FREE = frozenset((
    "view", "_unsafe_view", "reshape", "expand", "permute", "transpose", "t", "select", "slice", "unsqueeze", "squeeze", "detach",
    "alias", "as_strided", "split", "split_with_sizes", "unbind", "chunk", "unfold", "diagonal", "lift_fresh", "empty", "empty_like",
    "empty_strided", "new_empty", "new_empty_strided", "arange", "full", "zeros", "ones", "scalar_tensor", "linspace", "eye",
    "movedim", "view_as_real", "view_as_complex", "real", "imag", "_reshape_alias", "resize_", "set_", "sym_size", "sym_stride",
    "is_same_size", "_local_scalar_dense", "lift", "unsafe_split", "unsafe_chunk", "narrow", "_assert_async", "zeros_like",
    "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "tril_indices", "triu_indices", "randperm", "rand", "randn",
))
"""Operators that do nothing on a device, or fill a buffer that production keeps."""
_WRAPPERS = frozenset((
    "forward", "wrapper", "wrapped_forward", "wrapped", "wrapped_func", "forward_with_checkpointing", "<listcomp>", "<genexpr>",
))
_BY_DATA = frozenset(("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_consecutive", "unique_dim", "bincount",
                      "equal", "repeat_interleave"))


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Collects the calls of everything that runs inside it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.root = Frame()
        self.recording = False
        self._frames = [self.root]
        self._twins: list[dict[Any, tuple[Frame, Any, dict[str, list[Any]]]]] = [{}]
        self._modules: list[tuple[str, int, torch.nn.Module]] = []
        self._serial = 0
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}

    @property
    def module(self) -> torch.nn.Module | None:
        """The module that runs."""
        return self._modules[-1][2] if self._modules else None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator without data, and note it."""
        kwargs = kwargs or {}
        name = str(func).split(".")[1] if isinstance(func, torch._ops.OpOverload) else str(func)
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        if name in _BY_DATA and (name != "repeat_interleave" or kwargs.get("output_size") is None):
            return values.answer(func, args, kwargs)
        if name == "index" and _has_mask(args[1]):
            return self._index_by_mask(args)
        if name in ("index_put", "index_put_", "_index_put_impl_") and _has_mask(args[1]):
            self.note("index_put", [args[2]], args[0], 0, {})
            return args[0]
        if name == "_is_all_true" and values.value_of(args[0]) is None:
            return values.known(torch.ones((), dtype=torch.bool, device="cpu"))  # a model's check of its own inputs
        device = kwargs.get("device")
        if name == "_to_copy" and device is not None and torch.device(device).type == "cpu" and values.value_of(args[0]) is not None:
            kwargs = {k: v for k, v in kwargs.items() if k != "device"}
            return func(values.value_of(args[0]), **kwargs)
        if any(x.device.type == "meta" for x in tensors) or (device is not None and torch.device(device).type == "meta"):
            args, kwargs = tree_map(_without_data, (args, kwargs))
            if device is not None:
                kwargs["device"] = torch.device("meta")
        result = func(*args, **kwargs)
        if not tensors or any(x.device.type == "meta" for x in tensors):
            values.compute(func, args, kwargs, result)
        if self.recording and name not in _FREE:
            self.note(name.rstrip("_"), tensors, result, flops_of(name, args, kwargs, result), _facts(name, args, result))
        return result

    def _index_by_mask(self, args: Any) -> Any:
        """Index with a mask: its known values say how many elements there are; where nothing is known, it selects all."""
        indices: list[torch.Tensor | None] = []
        for index in args[1]:
            if index is not None and index.dtype in (torch.bool, torch.uint8):
                value = values.value_of(index)
                if value is None:
                    value = torch.ones(index.shape, dtype=torch.bool, device="cpu")
                indices.extend(values.known(i) for i in value.nonzero(as_tuple=True))
            else:
                indices.append(index)
        result = torch.ops.aten.index.Tensor(args[0], indices)
        values.compute(torch.ops.aten.index.Tensor, (args[0], indices), {}, result)
        return result

    def note(self, op: str, reads: list[torch.Tensor], result: Any, flops: int, facts: dict[str, int]) -> None:
        """Add a call to the trace."""
        if not self.recording:
            return
        scopes, serials = self._where()
        if any(isinstance(getattr(module, "kv_lora_rank", None), int) for _, _, module in self._modules[-2:]):
            facts = {"latent": 1, **facts}
        writes = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        first = next((x for x in (*reads, *writes) if x.is_floating_point()), None)
        self._frames[-1].entries.append(Call(
            op=op, scopes=scopes, serials=serials, flops=flops, facts=facts,
            dtype=str(first.dtype).removeprefix("torch.") if first is not None else "int64",
            reads=tuple(Traffic(self._storage(x), _touched(x)) for x in reads),
            writes=tuple(Traffic(self._storage(x), _touched(x)) for x in writes),
        ))

    def _storage(self, tensor: torch.Tensor) -> int:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._storages:
            self._storages[key] = (StorageWeakRef(storage), len(self._storages))  # type: ignore[no-untyped-call]  # holds on to the address
        return self._storages[key][1]

    def _where(self) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """The modules that run, and the functions inside the innermost one."""
        scopes, serials = [m[0] for m in self._modules], [m[1] for m in self._modules]
        innermost = serials[-1] if serials else 0
        for name in reversed(list(_functions(sys._getframe(2)))):
            scopes.append(name)
            serials.append(innermost)
        return tuple(scopes), tuple(serials)

    def start(self) -> None:
        """Begin a trace."""
        self.root = Frame()
        self._frames, self._twins, self._modules = [self.root], [{}], []
        self.recording = True

    def stop(self) -> list[Call]:
        """End it; returns its calls."""
        self.recording = False
        return list(self.root.calls())

    # -- modules ---------------------------------------------------------------------------------------------------------------

    @contextmanager
    def watching(self, model: torch.nn.Module) -> Iterator[None]:
        """Follow the modules of a model, and run the first of those alike only."""
        with ExitStack() as stack:
            twins = repeated(model)
            for module in model.modules():
                stack.callback(self._wrap(module, twins.get(id(module))))
            yield

    def _wrap(self, module: torch.nn.Module, signature: Any) -> Callable[[], None]:
        forward = module.forward
        had = "forward" in module.__dict__
        names = tuple(inspect.signature(forward).parameters) if signature is not None else ()

        def run(*args: Any, **kwargs: Any) -> Any:
            self._serial += 1
            self._modules.append((type(module).__name__, self._serial, module))
            try:
                return forward(*args, **kwargs)
            finally:
                self._modules.pop()

        def run_once(*args: Any, **kwargs: Any) -> Any:
            key = (signature, shapes(names, args, kwargs))
            twins = self._twins[-1]
            if key in twins and self.recording:
                twin, result, collected = twins[key]
                twin.count += 1
                capturing.repeat(collected)
                return result
            frame, before = Frame(), capturing.lengths()
            self._frames[-1].entries.append(frame)
            self._frames.append(frame)
            self._twins.append({})
            try:
                result = run(*args, **kwargs)
            finally:
                self._frames.pop()
                self._twins.pop()
            twins[key] = frame, result, capturing.since(before, args)
            return result

        module.forward = run if signature is None else run_once

        def restore() -> None:
            if had:
                module.forward = forward
            else:
                del module.forward

        return restore


def _functions(frame: FrameType | None) -> Iterator[str]:
    """Functions of model code from the inside out, up to the innermost module's ``forward``."""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.endswith(_MODULE_CALL):
            return
        if "/transformers/" in file and frame.f_code.co_name not in _WRAPPERS:
            yield f"{frame.f_code.co_name}()"
        if file.endswith("/transformers/cache_utils.py"):
            yield "cache()"
        if file.endswith("/transformers/masking_utils.py"):
            yield "masks()"
        frame = frame.f_back


def _has_mask(indices: Any) -> bool:
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)


def _facts(name: str, args: Any, result: Any) -> dict[str, int]:
    if name in ("mm", "addmm"):
        return {"rows": int(result.shape[0])}
    if name in ("convolution", "_convolution"):
        x, weight = args[0], args[1]
        return {"dims": weight.dim() - 2, "groups": int(args[8]), "channels": int(x.shape[1]), "transposed": int(args[6]),
                "patches": int(tuple(args[3]) == tuple(weight.shape[2:])), "points": int(weight[0, 0].numel())}
    return {}


def _touched(tensor: torch.Tensor) -> int:
    """Bytes of a view: an expanded dimension is one row."""
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else min(size, 1)
    return count * tensor.element_size()


def _without_data(x: Any) -> Any:
    if isinstance(x, torch.Tensor) and x.device.type == "cpu":
        return values.known(x)
    return x
