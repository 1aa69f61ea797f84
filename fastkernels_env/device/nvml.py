"""Clocks and what holds them back, as NVIDIA's management library tells them: by ctypes, quick enough to ask around every measurement."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

SLOWED = 0x8 | 0x20 | 0x40 | 0x80
"""Reasons that slow a device down: hardware and software thermal limits, the hardware's slowdown, the power brake (nvml.h)."""
_SM, _MEMORY = 1, 2
_GPU_SENSOR = 0


@functools.cache
def _library() -> Any:
    """The library, initialised; None where there is none."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    return library if library.nvmlInit_v2() == 0 else None


@functools.cache
def _handle(uuid: str) -> ctypes.c_void_p | None:
    """A device by its UUID: torch's numbers follow CUDA_VISIBLE_DEVICES, this library's do not."""
    library, handle = _library(), ctypes.c_void_p()
    name = uuid if uuid.startswith("GPU-") else f"GPU-{uuid}"
    if library is None or library.nvmlDeviceGetHandleByUUID(name.encode(), ctypes.byref(handle)):
        return None
    return handle


def clocks(uuid: str) -> dict[str, float]:
    """``sm_mhz``, ``memory_mhz``, ``power_w``, ``temperature_c`` and ``throttle_reasons`` (a bit mask) of a device.

    What does not answer is left out.
    """
    handle = _handle(uuid)
    if handle is None:
        return {}
    library, found = _library(), {}
    word, mask = ctypes.c_uint(), ctypes.c_ulonglong()
    for name, clock in (("sm_mhz", _SM), ("memory_mhz", _MEMORY)):
        if library.nvmlDeviceGetClockInfo(handle, clock, ctypes.byref(word)) == 0:
            found[name] = float(word.value)
    if library.nvmlDeviceGetPowerUsage(handle, ctypes.byref(word)) == 0:
        found["power_w"] = word.value / 1000
    if library.nvmlDeviceGetTemperature(handle, _GPU_SENSOR, ctypes.byref(word)) == 0:
        found["temperature_c"] = float(word.value)
    if library.nvmlDeviceGetCurrentClocksThrottleReasons(handle, ctypes.byref(mask)) == 0:
        found["throttle_reasons"] = float(mask.value)
    return found


def busy(uuid: str) -> float | None:
    """Share of the driver's last period, of up to a second, in which a kernel ran on a device; None where nothing answers."""
    handle, rates = _handle(uuid), (ctypes.c_uint * 2)()
    if handle is None or _library().nvmlDeviceGetUtilizationRates(handle, rates):
        return None
    return rates[0] / 100
