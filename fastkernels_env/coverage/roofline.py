"""The least time that a device needs for a kernel, from its traffic and its arithmetic."""

from __future__ import annotations

from ..types import Peaks

H200 = Peaks(copy_bytes_per_s=4.3e12, flops_per_s={"bfloat16": 790e12, "float16": 790e12, "float32": 67e12, "float8": 1500e12})
"""An H200: rates reached in this project's measurements of copies and of bfloat16 products; the data sheet's for float32."""


def seconds(bytes_moved: float, flops: float, dtype: str, peaks: Peaks = H200) -> float:
    """Time by roofline: the longer of moving the bytes and doing the arithmetic. Launches cost nothing.

    Args:
        bytes_moved: Compulsory traffic, in bytes.
        flops: Floating-point operations.
        dtype: Type of the operands; one without a rate of its own takes that of float32.
        peaks: The device's rates.
    """
    rate = peaks.flops_per_s.get(dtype, peaks.flops_per_s["float32"])
    return max(bytes_moved / peaks.copy_bytes_per_s, flops / rate)
