"""Triton's interpreter on a CPU, made fit to judge correctness with.

Three of its traps are mended here: it multiplies bf16 operands of `tl.dot` as if their bits were integers, it truncates when it
rounds fp32 to bf16 (a GPU rounds to nearest even), and `@autotune` asks for an active GPU driver in order to time configurations.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np


def to_bfloat16_bits(values: np.ndarray) -> np.ndarray:
    """The bf16 bits (uint16) nearest to fp32 values, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16
    quiet = (bits >> 16) | 0x40
    return np.where((bits & 0x7FFFFFFF) > 0x7F800000, quiet, rounded).astype(np.uint16)


def from_bfloat16_bits(bits: np.ndarray) -> np.ndarray:
    """The fp32 values of bf16 bits (uint16)."""
    return (np.ascontiguousarray(bits).view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def to_float8_bits(values: np.ndarray) -> np.ndarray:
    """The float8_e4m3fn bits (uint8) nearest to fp32 values, ties to even; what is beyond the largest becomes that, as on a GPU."""
    import torch

    nearest = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).clamp(-448, 448).to(torch.float8_e4m3fn)
    return nearest.view(torch.uint8).numpy()


def prepare_interpreter() -> None:
    """Patch the interpreter of the installed Triton; call with TRITON_INTERPRET=1 set and before the submission is imported."""
    import triton.language as tl
    from triton.runtime import autotuner, interpreter

    plain_convert = interpreter._convert_float
    plain_dot = interpreter.InterpreterBuilder.create_dot
    plain_init = autotuner.Autotuner.__init__

    @functools.wraps(plain_convert)
    def convert(data: Any, source: Any, target: Any, rounding: Any) -> Any:
        if (source, target) == (tl.float32, tl.bfloat16):
            return to_bfloat16_bits(data)
        if (source, target) == (tl.bfloat16, tl.float32):
            return from_bfloat16_bits(data)
        if (source, target) == (tl.float32, tl.float8e4nv):
            return to_float8_bits(data)
        return plain_convert(data, source, target, rounding)

    def widened(handle: Any) -> Any:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return interpreter.TensorHandle(from_bfloat16_bits(handle.data), tl.float32)

    @functools.wraps(plain_dot)
    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return plain_dot(self, widened(a), widened(b), *rest)

    @functools.wraps(plain_init)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        plain_init(self, *args, **kwargs)
        self.configs = self.configs[:1]

    interpreter._convert_float = convert
    interpreter.InterpreterBuilder.create_dot = create_dot
    autotuner.Autotuner.__init__ = init
