"""A seccomp filter: system calls that no kernel and no compiler needs, and that reach out of the sandbox, fail with EPERM.

Everything else is allowed: the filter narrows what the kernel offers to attack, the other layers say what may be touched. `clone3`
fails with ENOSYS, since a filter cannot see its flags; the C library then uses `clone`, whose flags it can see.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from typing import NamedTuple

from .linux import MACHINE, syscall

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_SET_FILTER, _ALLOW_SPECULATION = 1, 4
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _EQUAL, _ABOVE, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENT = 0, 4, (16, 24, 32, 40, 48, 56)
_X32 = 0x40000000
_NEW_NAMESPACES = 0x7E020080
"""CLONE_NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET."""
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK, _SOCK_SEQPACKET = 1, 2, 10, 16, 5

_DENIED: dict[str, dict[str, int]] = {
    "x86_64": {
        "connect": 42, "accept": 43, "accept4": 288, "bind": 49, "listen": 50, "socket": 41,
        "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "personality": 135,
        "shmget": 29, "shmat": 30, "semget": 64, "msgget": 68, "mq_open": 240,
        "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "swapon": 167, "swapoff": 168, "reboot": 169,
        "sethostname": 170, "setdomainname": 171, "iopl": 172, "ioperm": 173, "init_module": 175, "delete_module": 176, "finit_module": 313,
        "quotactl": 179, "nfsservctl": 180, "acct": 163, "settimeofday": 164, "adjtimex": 159, "clock_settime": 227, "clock_adjtime": 305,
        "syslog": 103, "vhangup": 153, "modify_ldt": 154, "uselib": 134, "lookup_dcookie": 212, "_sysctl": 156,
        "kexec_load": 246, "kexec_file_load": 320, "add_key": 248, "request_key": 249, "keyctl": 250,
        "unshare": 272, "setns": 308, "perf_event_open": 298, "fanotify_init": 300, "name_to_handle_at": 303, "open_by_handle_at": 304,
        "bpf": 321, "userfaultfd": 323,
    },
    "aarch64": {
        "connect": 203, "accept": 202, "accept4": 242, "bind": 200, "listen": 201, "socket": 198,
        "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272, "personality": 92,
        "shmget": 194, "shmat": 196, "semget": 190, "msgget": 186, "mq_open": 180,
        "mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51, "swapon": 224, "swapoff": 225, "reboot": 142,
        "sethostname": 161, "setdomainname": 162, "init_module": 105, "delete_module": 106, "finit_module": 273,
        "quotactl": 60, "nfsservctl": 42, "acct": 89, "settimeofday": 170, "adjtimex": 171, "clock_settime": 112, "clock_adjtime": 266,
        "syslog": 116, "vhangup": 58, "lookup_dcookie": 18,
        "kexec_load": 104, "kexec_file_load": 294, "add_key": 217, "request_key": 218, "keyctl": 219,
        "unshare": 97, "setns": 268, "perf_event_open": 241, "fanotify_init": 262, "name_to_handle_at": 264, "open_by_handle_at": 265,
        "bpf": 280, "userfaultfd": 282,
    },
}  # fmt: skip
_DENIED_EVERYWHERE = {
    "pidfd_send_signal": 424, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429,
    "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_open": 434, "pidfd_getfd": 438, "process_madvise": 440,
    "mount_setattr": 442, "quotactl_fd": 443, "memfd_secret": 447, "process_mrelease": 448, "statmount": 457, "listmount": 458,
    "open_tree_attr": 467,
}  # fmt: skip
"""Younger than the tables of numbers per architecture."""
_CLONE = {"x86_64": 56, "aarch64": 220}
_CLONE3 = 435
_IOCTL = {"x86_64": 16, "aarch64": 29}
_DRIVER_SOCKETS = ("bind", "listen", "accept", "accept4", "socket")
_LOOPBACK = (*_DRIVER_SOCKETS, "connect")


class _Instruction(NamedTuple):
    """One instruction of classic BPF; jumps are relative to the next one."""

    code: int
    value: int
    if_true: int = 0
    if_false: int = 0


def denied_calls(machine: str = MACHINE, driver_socket: bool = False, loopback: bool = False) -> dict[str, int]:
    """Numbers of the system calls that always fail, by name; see `build_filter`."""
    if machine not in _DENIED:
        raise OSError(f"there is no system call table for {machine!r}")
    denied = _DENIED[machine] | _DENIED_EVERYWHERE
    allowed = {*(_DRIVER_SOCKETS if driver_socket else ()), *(_LOOPBACK if loopback else ())}
    return {name: number for name, number in denied.items() if name not in allowed}


def build_filter(machine: str = MACHINE, driver_socket: bool = False, loopback: bool = False) -> bytes:
    """The program, as the kernel takes it.

    Args:
        machine: ``x86_64`` or ``aarch64``.
        driver_socket: Let the process make a Unix socket of the one kind that CUDA's driver listens on; it can still connect to none.
        loopback: Let it make Internet and Unix sockets, and connect them: ranks do, in a network that has nothing else.

    Raises:
        OSError: The architecture is not known here.
    """
    denied = denied_calls(machine, driver_socket, loopback)
    program = [
        _Instruction(_LOAD, _ARCHITECTURE), _Instruction(_EQUAL, _AUDIT_ARCH[machine], 1, 0), _Instruction(_RETURN, _KILL),
        _Instruction(_LOAD, _NUMBER),
    ]
    if machine == "x86_64":
        program += [_Instruction(_ABOVE, _X32, 0, 1), _Instruction(_RETURN, _refuse(errno.EPERM))]
    program += _when(_CLONE3, [_Instruction(_RETURN, _refuse(errno.ENOSYS))])
    program += _when(_CLONE[machine], _unless_any_bit(_ARGUMENT[0], _NEW_NAMESPACES))
    program += _when(_IOCTL[machine], _unless_equal(_ARGUMENT[1], (_TIOCSTI, _TIOCLINUX)))
    if loopback:
        program += _when(_DENIED[machine]["socket"], _local_sockets())
    elif driver_socket:
        program += _when(_DENIED[machine]["socket"], _driver_socket())
    for number in sorted(denied.values()):
        program += _when(number, [_Instruction(_RETURN, _refuse(errno.EPERM))])
    program.append(_Instruction(_RETURN, _ALLOW))
    return b"".join(struct.pack("=HBBI", code, if_true, if_false, value) for code, value, if_true, if_false in program)


def apply_seccomp(driver_socket: bool = False, loopback: bool = False) -> None:
    """Filter the system calls of this thread and of all that it starts. Needs "no new privileges".

    Older kernels slow a filtered process down against speculative stores; the flag leaves that as it is, for the same speed on both
    sides of a comparison.

    Raises:
        OSError: The kernel or the architecture has no such filters.
    """
    code = build_filter(MACHINE, driver_socket, loopback)
    text = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(text))
    syscall(_SECCOMP[MACHINE], _SET_FILTER, _ALLOW_SPECULATION, program, what="seccomp")


def _refuse(number: int) -> int:
    return _ERRNO | number


def _when(number: int, then: list[_Instruction]) -> list[_Instruction]:
    """Run `then`, which ends with a return, if the call has that number."""
    return [_Instruction(_EQUAL, number, 0, len(then)), *then]


def _unless_any_bit(offset: int, bits: int) -> list[_Instruction]:
    return [
        _Instruction(_LOAD, offset), _Instruction(_ANY_BIT, bits, 0, 1), _Instruction(_RETURN, _refuse(errno.EPERM)),
        _Instruction(_RETURN, _ALLOW),
    ]


def _unless_equal(offset: int, values: tuple[int, ...]) -> list[_Instruction]:
    tests = [
        instruction for value in values for instruction in (_Instruction(_EQUAL, value, 0, 1), _Instruction(_RETURN, _refuse(errno.EPERM)))
    ]
    return [_Instruction(_LOAD, offset), *tests, _Instruction(_RETURN, _ALLOW)]


def _driver_socket() -> list[_Instruction]:
    """Allow socket(AF_UNIX, SOCK_SEQPACKET), whatever the flags in the type's upper bits."""
    return [
        _Instruction(_LOAD, _ARGUMENT[0]), _Instruction(_EQUAL, _AF_UNIX, 1, 0), _Instruction(_RETURN, _refuse(errno.EPERM)),
        _Instruction(_LOAD, _ARGUMENT[1]), _Instruction(0x54, 0xF), _Instruction(_EQUAL, _SOCK_SEQPACKET, 1, 0),
        _Instruction(_RETURN, _refuse(errno.EPERM)), _Instruction(_RETURN, _ALLOW),
    ]


def _local_sockets() -> list[_Instruction]:
    """Allow socket() of the families that process groups use; netlink is how a process asks for its addresses."""
    program = [_Instruction(_LOAD, _ARGUMENT[0])]
    for family in (_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK):
        program += _when(family, [_Instruction(_RETURN, _ALLOW)])
    return [*program, _Instruction(_RETURN, _refuse(errno.EPERM))]
