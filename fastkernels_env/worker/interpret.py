"""Triton's interpreter on a CPU, made fit to judge correctness with.

Two of its traps are mended here: it multiplies bf16 operands of `tl.dot` as if their bits were integers, and `@autotune` asks for an
active GPU driver in order to time configurations.
"""

from __future__ import annotations

import functools
from typing import Any


def prepare_interpreter() -> None:
    """Patch the interpreter of the installed Triton; call with TRITON_INTERPRET=1 set and before the submission is imported."""
    import numpy as np
    import triton.language as tl
    from triton.runtime import autotuner, interpreter

    plain_dot = interpreter.InterpreterBuilder.create_dot
    plain_init = autotuner.Autotuner.__init__

    def widened(handle: Any) -> Any:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        data = (handle.data.astype(np.uint32) << 16).view(np.float32)
        return interpreter.TensorHandle(data, tl.float32)

    @functools.wraps(plain_dot)
    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return plain_dot(self, widened(a), widened(b), *rest)

    @functools.wraps(plain_init)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        plain_init(self, *args, **kwargs)
        self.configs = self.configs[:1]

    interpreter.InterpreterBuilder.create_dot = create_dot
    autotuner.Autotuner.__init__ = init
