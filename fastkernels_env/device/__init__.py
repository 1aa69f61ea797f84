"""Devices that a judge can own: ``cpu`` and ``cuda``."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess

from .base import Arena, Clock, Device, DeviceError, MissingTool

__all__ = ["Arena", "Clock", "Device", "DeviceError", "MissingTool", "most_ranks", "open_device", "resolve"]


@functools.cache
def cuda_present() -> bool:
    """Whether a CUDA device answers, without creating a context in this process."""
    if not shutil.which("nvidia-smi"):
        return False
    try:
        return subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=20).stdout.startswith(b"GPU ")
    except (OSError, subprocess.TimeoutExpired):
        return False


def resolve(name: str) -> str:
    """``cpu`` or ``cuda`` for ``auto``, ``cpu`` or ``cuda``.

    Raises:
        DeviceError: Another name, or CUDA where no device answers.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise DeviceError(f"expected device 'auto', 'cpu' or 'cuda', got {name!r}")
    if name == "cuda" and not cuda_present():
        raise DeviceError("device 'cuda' was asked for, but nvidia-smi lists no GPU on this host; use device 'cpu' or 'auto'")
    return ("cuda" if cuda_present() else "cpu") if name == "auto" else name


def most_ranks(kind: str) -> int:
    """How many ranks find a GPU, or a core, of their own on this host."""
    if kind == "cpu":
        return len(os.sched_getaffinity(0))
    import torch

    return torch.cuda.device_count()


def open_device(name: str) -> Device:
    """Open a device for judging. On CUDA this makes a context in the calling process.

    Raises:
        DeviceError: The device cannot be opened.
    """
    if resolve(name) == "cuda":
        from .cuda import CudaDevice

        return CudaDevice()
    from .cpu import CpuDevice

    return CpuDevice()
