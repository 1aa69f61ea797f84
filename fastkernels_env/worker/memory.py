"""The judge's memory, as a worker sees it."""

from __future__ import annotations

import mmap
import os
from typing import Any

import torch
from torch.utils.dlpack import from_dlpack

from ..protocol import TensorRef


class Arena:
    """A mapped arena. `view` is uint8 ``[size]`` on the worker's device."""

    def __init__(self, device: str, descriptor: int, size: int) -> None:
        self._mapping: Any
        if device == "cuda":
            from .._cuda import import_descriptor

            self._mapping = import_descriptor(descriptor, size, torch.cuda.current_device())
            self.view = self._mapping.view
        else:
            self._mapping = mmap.mmap(descriptor, size)
            self.view = torch.frombuffer(self._mapping, dtype=torch.uint8)
        os.close(descriptor)

    def tensor(self, ref: TensorRef) -> torch.Tensor:
        """The strided tensor at a reference."""
        dtype = getattr(torch, ref.dtype)
        if not all(ref.shape):
            return torch.empty_strided(ref.shape, ref.strides, dtype=dtype, device=self.view.device)
        extent = 1 + sum((size - 1) * stride for size, stride in zip(ref.shape, ref.strides, strict=True))
        flat: torch.Tensor = self.view[ref.offset : ref.offset + extent * dtype.itemsize].view(dtype)
        # A storage of its own, as in production: torch.compile takes arguments that share one for aliases and may refuse to mutate them.
        return from_dlpack(flat).as_strided(ref.shape, ref.strides)

    def close(self) -> None:
        """Unmap. No tensor over this arena may be used afterwards."""
        del self.view
        if not isinstance(self._mapping, mmap.mmap):
            self._mapping.close()
