"""Memory of GPUs by process, as NVIDIA's management library tells it: by ctypes, without CUDA and without a subprocess."""

from __future__ import annotations

import contextlib
import ctypes
import functools
from typing import Any

_UNKNOWN = (1 << 64) - 1


class _Process(ctypes.Structure):
    _fields_ = (
        ("pid", ctypes.c_uint), ("used", ctypes.c_ulonglong), ("gpu_instance", ctypes.c_uint), ("compute_instance", ctypes.c_uint),
    )


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class NvmlError(OSError):
    """The library is not there, or does not answer."""


@functools.cache
def _library() -> Any:
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError as error:
        raise NvmlError(f"no NVIDIA management library: {error}") from None
    if status := library.nvmlInit_v2():
        raise NvmlError(f"nvmlInit: status {status}")
    return library


def _handles() -> list[ctypes.c_void_p]:
    library, count = _library(), ctypes.c_uint()
    if status := library.nvmlDeviceGetCount_v2(ctypes.byref(count)):
        raise NvmlError(f"nvmlDeviceGetCount: status {status}")
    handles = []
    for index in range(count.value):
        handle = ctypes.c_void_p()
        if library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) == 0:
            handles.append(handle)
    return handles


def device_memory_by_process() -> dict[int, int]:
    """Bytes on all GPUs by process id; processes that this one may not see are left out.

    Raises:
        NvmlError: There is no driver, or it does not answer.
    """
    held: dict[int, int] = {}
    for handle in _handles():
        count = ctypes.c_uint(1024)
        processes = (_Process * count.value)()
        if _library().nvmlDeviceGetComputeRunningProcesses_v3(handle, ctypes.byref(count), processes) == 0:
            for process in processes[: count.value]:
                if process.used != _UNKNOWN:
                    held[process.pid] = held.get(process.pid, 0) + process.used
    return held


def device_memory_total() -> int:
    """Bytes of the smallest GPU; 0 if there is none that answers."""
    totals = []
    with contextlib.suppress(NvmlError):
        for handle in _handles():
            memory = _Memory()
            if _library().nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) == 0:
                totals.append(memory.total)
    return min(totals, default=0)
