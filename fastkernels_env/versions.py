"""Versions of what an evaluation depends on."""

from __future__ import annotations

import functools
import platform
from importlib import metadata

_PACKAGES = ("fastkernels-env", "torch", "triton", "apache-tvm-ffi", "flashinfer-python", "liger-kernel", "numpy", "gymnasium")


@functools.cache
def versions() -> dict[str, str]:
    """Version by package, and Python's; packages that are not installed are left out."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
