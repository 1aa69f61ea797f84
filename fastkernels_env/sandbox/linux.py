"""The system calls that Python's `os` lacks, by ctypes. Each raises OSError where the kernel refuses."""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import socket
import struct

MACHINE = platform.machine()
NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 0x1000, 0x4000, 0x40000
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV = 1, 2, 4
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SUBREAPER, _PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP = 1, 4, 36, 38, 24
_MNT_DETACH = 2
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
_MOUNT_SETATTR, _CLOSE_RANGE = 442, 436
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_CAPSET = {"x86_64": 126, "aarch64": 91}
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_CAPABILITY_VERSION = 0x20080522
_LAST_CAPABILITY = 63

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def syscall(number: int, *arguments: object, what: str) -> int:
    """A system call by its number; integers are passed as 64 bits."""
    wide = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return _checked(_libc.syscall(ctypes.c_long(number), *wide), what)


def unshare(flags: int) -> None:
    """Leave namespaces for new ones."""
    _checked(_libc.unshare(flags), "unshare")


def raise_loopback() -> None:
    """Bring up the loopback device of this network namespace, which a new one has switched off."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh22x", b"lo", _IFF_UP)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, request)


def setns(descriptor: int, kind: int) -> None:
    """Enter a namespace."""
    _checked(_libc.setns(descriptor, kind), "setns")


def mount(source: str, target: str, kind: str = "none", flags: int = 0, options: str = "") -> None:
    """Mount, bind or change the propagation of a mount."""
    done = _libc.mount(os.fsencode(source), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), options.encode())
    _checked(done, f"mount {kind if kind != 'none' else source} on {target}")


def restrict_mount(path: str, attributes: int, recursive: bool = True) -> None:
    """Add attributes (read-only and the like) to a mount and, if `recursive`, to all below it."""
    wanted = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    flags = _AT_RECURSIVE if recursive else 0
    syscall(_MOUNT_SETATTR, _AT_FDCWD, os.fsencode(path), flags, wanted, ctypes.sizeof(wanted), what=f"mount_setattr {path}")


def enter_root(folder: str) -> None:
    """Make a mount point the root of this mount namespace and let go of the old one."""
    os.chdir(folder)
    syscall(_PIVOT_ROOT[MACHINE], b".", b".", what="pivot_root")
    _checked(_libc.umount2(b".", _MNT_DETACH), "umount2")
    os.chdir("/")


def die_with_parent(signal: int) -> None:
    """Ask for a signal when the parent ends. A change of credentials forgets it."""
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, signal, 0, 0, 0), "PR_SET_PDEATHSIG")


def set_dumpable(dumpable: bool) -> None:
    """Whether processes of the same user may look into this one."""
    _checked(_libc.prctl(_PR_SET_DUMPABLE, int(dumpable), 0, 0, 0), "PR_SET_DUMPABLE")


def become_subreaper() -> None:
    """Become the parent of every orphan below."""
    _checked(_libc.prctl(_PR_SET_SUBREAPER, 1, 0, 0, 0), "PR_SET_CHILD_SUBREAPER")


def deny_new_privileges() -> None:
    """Let no program that is executed gain privileges."""
    _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS")


def bound_capabilities() -> None:
    """Let no program that is executed have a capability."""
    for capability in range(_LAST_CAPABILITY + 1):
        _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # fails for numbers that this kernel does not know, and without CAP_SETPCAP


def drop_capabilities() -> None:
    """Give up every capability, for good."""
    header, none = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
    syscall(_CAPSET[MACHINE], header, none, what="capset")


def close_others(keep: set[int]) -> None:
    """Close every descriptor from 3 on that is not to be kept."""
    start = 3
    for descriptor in [*sorted(fd for fd in keep if fd >= 3), 1 << 31]:
        if start < descriptor:
            try:
                syscall(_CLOSE_RANGE, start, descriptor - 1, 0, what="close_range")
            except OSError:
                os.closerange(start, min(descriptor, os.sysconf("SC_OPEN_MAX")))
        start = descriptor + 1
