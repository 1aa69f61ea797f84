"""Landlock: the kernel denies this process, and all that it starts, every file that is not named here.

Applied to the calling thread alone, so nothing may run in another thread before it.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

from .linux import syscall

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_EXECUTE, _WRITE, _READ, _LIST = 1, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _DEVICE = 1 << 14, 1 << 15
_RIGHTS_BY_ABI = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""How many of the rights, from bit 0 on, an ABI knows. 13 is "refer", without which Triton cannot move a file between folders."""
_FILE_RIGHTS = _EXECUTE | _WRITE | _READ | _TRUNCATE | _DEVICE
_TCP = 0b11
_SCOPES = 0b11
"""Abstract Unix sockets and signals stay inside."""


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("access", ctypes.c_uint64), ("descriptor", ctypes.c_int32))


def landlock_abi() -> int:
    """The version that this kernel offers.

    Raises:
        OSError: It has none, or it is switched off.
    """
    return syscall(_CREATE, None, 0, 1, what="landlock_create_ruleset")


def apply_landlock(readable: Iterable[str], writable: Iterable[str], updatable: Iterable[str], tcp: bool = False) -> None:
    """Deny everything but what is named. Needs "no new privileges".

    Args:
        readable: Folders and files to read and execute.
        writable: Folders in which everything is allowed.
        updatable: Folders and files in which what exists may be written to.
        tcp: Leave it to the network namespace what can be connected to.

    Raises:
        OSError: The kernel refuses.
    """
    abi = landlock_abi()
    handled = (1 << _RIGHTS_BY_ABI[min(abi, 5)]) - 1
    ruleset = _Ruleset(handled, _TCP if abi >= 4 and not tcp else 0, _SCOPES if abi >= 6 else 0)
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    descriptor = syscall(_CREATE, ctypes.byref(ruleset), size, 0, what="landlock_create_ruleset")
    try:
        for paths, rights in (
            (readable, _EXECUTE | _READ | _LIST), (updatable, _EXECUTE | _READ | _LIST | _WRITE | _TRUNCATE | _DEVICE), (writable, handled),
        ):
            for path in paths:
                _allow(descriptor, path, rights & handled)
        syscall(_RESTRICT, descriptor, 0, what="landlock_restrict_self")
    finally:
        os.close(descriptor)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not os.path.isdir(path):
            rights &= _FILE_RIGHTS
        syscall(_ADD, ruleset, 1, ctypes.byref(_Beneath(rights, beneath)), 0, what=f"landlock_add_rule {path}")
    finally:
        os.close(beneath)
