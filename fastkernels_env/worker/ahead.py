"""Compile Triton kernels for a GPU that is not there: launches compile for sm_90 and do nothing else."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

CAPABILITY = 90


class Recorder:
    """Collects what was compiled."""

    def __init__(self) -> None:
        self._kernels: dict[str, Any] = {}

    def add(self, kernel: Any) -> None:
        """Remember a compiled kernel."""
        self._kernels[kernel.hash] = kernel

    def resources(self) -> dict[str, float]:
        """Number of kernels, and the largest registers, shared memory and spills among them."""
        figures: dict[str, float] = {"kernels": float(len(self._kernels))}
        for kernel in self._kernels.values():
            found = {"shared_bytes": float(kernel.metadata.shared), **_usage(kernel.asm["cubin"])}
            for name, value in found.items():
                figures[name] = max(figures.get(name, 0.0), value)
        return figures


class _Sm90Driver:
    """The part of a Triton driver that compiling asks for."""

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", CAPABILITY, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _device: int = 0) -> int:
        return 0

    def get_active_torch_device(self) -> Any:
        import torch

        return torch.device("cpu")


def prepare_ahead_of_time() -> Recorder:
    """Turn every launch of a ``@triton.jit`` function into a compilation; call before the submission is imported."""
    from triton.runtime import autotuner, driver, jit

    recorder = Recorder()
    driver.set_active(_Sm90Driver())
    plain_run = jit.JITFunction.run

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        kernel = plain_run(self, *args, grid=grid, warmup=True, **kwargs)
        recorder.add(kernel)
        return kernel

    def tune(self: Any, *args: Any, **kwargs: Any) -> Any:
        """Compile the first configuration: there is nothing to time."""
        return self.fn.run(*args, **kwargs, **self.configs[0].all_kwargs())

    jit.JITFunction.run = run
    autotuner.Autotuner.run = tune
    return recorder


def _usage(cubin: bytes) -> dict[str, float]:
    """Registers and local memory (stack and spills) of a cubin, from the cuobjdump that Triton ships."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        try:
            text = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, timeout=20).stdout
        except (OSError, subprocess.TimeoutExpired):
            return {}
    registers = [float(value) for value in re.findall(r"REG:(\d+)", text)]
    spills = [float(value) for value in re.findall(r"STACK:(\d+)", text)]
    return {"registers": max(registers, default=0.0), "stack_bytes": max(spills, default=0.0)}
