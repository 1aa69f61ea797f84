"""Fork a tree of processes that is confined before it runs anything: the starter, an init, and the worker below it.

The starter is privileged and single-threaded. The init confines itself, layer by layer, in the order in which the kernel allows it:
namespaces, mount view, user, no new privileges, limits, Landlock, seccomp. Then it forks the worker, which inherits all of it, so that
signals and exits of the worker behave as ever, and ending the init ends every descendant. A layer that cannot be had is reported with
the reason, and the others are still applied.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable

from . import layers, linux, slots, tree
from .cgroup import MemoryGroup
from .init import attend
from .landlock import apply_landlock
from .limits import apply_limits
from .roots import unreachable, unreadable
from .running import Policy, Tree
from .seccomp import apply_seccomp
from .view import device_files, enter_view


def start(policy: Policy, run: Callable[[], None], keep: set[int], log: int) -> Tree:
    """Fork a confined tree whose worker calls `run` and then exits.

    Args:
        policy: How to confine it.
        run: Called in the worker. What it raises ends the worker with status 1.
        keep: Descriptors that the worker keeps; all others but the standard ones are closed.
        log: File, readable and writable, that keeps the end of what the tree prints.

    Raises:
        OSError: No process can be started.
    """
    missing: dict[str, str] = {}
    slot = _take_slot(policy, missing)
    group = _make_group(policy)
    status, report = os.pipe2(os.O_CLOEXEC)
    gate, opened = os.pipe2(os.O_CLOEXEC)
    try:
        top = _fork(lambda: _become_init(policy, run, keep, log, report, gate, slot.uid if slot else 0, missing), missing)
    except BaseException:
        for descriptor in (status, opened):
            os.close(descriptor)
        if slot:
            slot.release()
        if group:
            group.close()
        raise
    finally:
        os.close(report)
        os.close(gate)
    started = Tree(top, status, policy, slot, group)
    try:
        if group is not None:
            for pid in (top, *tree.descendants(top)):
                group.add(pid)
        os.write(opened, b"\n")
        started.begin()
    except BaseException:
        started.end()
        raise
    finally:
        os.close(opened)
    return started


def _take_slot(policy: Policy, missing: dict[str, str]) -> slots.Slot | None:
    try:
        if path := unreadable(policy.roots):
            raise PermissionError(f"other users cannot read {path}")
        slot = slots.take_slot()
    except (OSError, ValueError) as error:
        missing[layers.UID] = str(error)
        return None
    os.chown(policy.scratch, slot.uid, slot.uid)
    return slot


def _make_group(policy: Policy) -> MemoryGroup | None:
    with contextlib.suppress(OSError):
        return MemoryGroup(f"fastkernels-{os.getpid()}-{time.monotonic_ns()}", policy.limits.memory)
    return None  # the watch alone then counts what processes map


def _fork(become_init: Callable[[], None], missing: dict[str, str]) -> int:
    """Fork the first process of a PID namespace; the calling process stays in its own."""
    if os.geteuid() != 0:
        return _child(lambda: _launch(become_init, missing))
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            linux.unshare(linux.NEWPID)
        except OSError as error:
            missing[layers.PID] = str(error)
            return _child(become_init)
        try:
            return _child(become_init)
        finally:
            linux.setns(own, linux.NEWPID)
    finally:
        os.close(own)


def _child(run: Callable[[], None]) -> int:
    """Fork a child that calls `run` and exits; returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        run()
        status = 0
    except BaseException as error:
        with contextlib.suppress(BaseException):
            sys.excepthook(type(error), error, error.__traceback__)
    finally:
        os._exit(status)


def _launch(become_init: Callable[[], None], missing: dict[str, str]) -> None:
    """Without privileges: a user namespace first. This process stays outside of the PID namespace that it makes, and waits."""
    uid, gid = os.getuid(), os.getgid()
    linux.die_with_parent(signal.SIGKILL)
    try:
        linux.unshare(linux.NEWUSER | linux.NEWPID)
    except OSError as error:
        for layer in (layers.NETWORK, layers.IPC, layers.PID, layers.VIEW):
            missing[layer] = f"no user namespace: {error}"
    else:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    child = _child(become_init)
    linux.close_others(set())
    os.waitpid(child, 0)


def _become_init(
    policy: Policy, run: Callable[[], None], keep: set[int], log: int, report: int, gate: int, uid: int, missing: dict[str, str]
) -> None:
    """Confine this process, fork the worker, attend to it."""
    os.setsid()
    linux.close_others({*keep, log, report, gate})
    if not os.read(gate, 1):
        return  # the judge was interrupted before it could open the gate: there is nobody to work for
    os.close(gate)  # from here on it is in its control group
    try:
        _confine(policy, uid, missing)
    except FileNotFoundError:
        if os.path.exists(policy.scratch):
            raise
        return  # it was interrupted since, and has tidied up
    output, printed = os.pipe2(os.O_CLOEXEC)
    worker = _child(lambda: _become_worker(run, (log, report, output), printed))
    for descriptor in (*keep, printed):
        os.close(descriptor)
    os.write(report, json.dumps(missing).encode() + b"\n")
    attend(worker, output, log, report)


def _become_worker(run: Callable[[], None], foreign: tuple[int, ...], printed: int) -> None:
    linux.die_with_parent(signal.SIGKILL)
    linux.set_dumpable(True)  # its own files in /proc are its own again, which CUDA and debuggers of the worker itself want
    os.setsid()
    for descriptor in foreign:
        os.close(descriptor)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (printed, 1), (printed, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(printed)
    run()


def _confine(policy: Policy, uid: int, missing: dict[str, str]) -> None:
    """Apply every layer that is not already known to be missing; note those that cannot be had."""

    def attempt(layer: str, *steps: Callable[[], object]) -> None:
        if layer not in missing:
            try:
                for step in steps:
                    step()
            except OSError as error:
                missing[layer] = str(error)

    owner = uid or os.getuid()
    in_user_namespace = os.geteuid() != 0 and layers.PID not in missing
    attempt(layers.NETWORK, lambda: linux.unshare(linux.NEWNET), *([linux.raise_loopback] if policy.loopback else []))
    attempt(layers.IPC, lambda: linux.unshare(linux.NEWIPC | linux.NEWUTS))
    if layers.PID in missing:
        linux.become_subreaper()
        missing.setdefault(layers.VIEW, "it needs a pid namespace")
    attempt(
        layers.VIEW, lambda: linux.unshare(linux.NEWNS), lambda: enter_view(policy.roots, policy.scratch, owner, policy.limits)
    )
    linux.bound_capabilities()  # while it still may
    attempt(layers.UID, lambda: _become_user(uid, policy, layers.VIEW in missing))
    attempt(layers.PRIVILEGES, linux.drop_capabilities, linux.deny_new_privileges)
    attempt(layers.LIMITS, lambda: apply_limits(policy.limits, own_uid=in_user_namespace or layers.UID not in missing))
    attempt(layers.LANDLOCK, lambda: _apply_landlock(policy, layers.VIEW in missing))
    attempt(layers.SECCOMP, lambda: apply_seccomp(policy.driver_socket, policy.loopback))
    linux.set_dumpable(False)
    linux.die_with_parent(signal.SIGKILL)  # after the change of user, which forgets it
    os.chdir(policy.scratch)


def _become_user(uid: int, policy: Policy, whole_host: bool) -> None:
    """Become the slot's user; in a view every folder can be passed, outside of it maybe not."""
    for path in (policy.scratch, *policy.roots.folders) if whole_host else ():
        if folder := unreachable(path):
            os.chown(policy.scratch, os.getuid(), os.getgid())
            raise PermissionError(f"other users cannot pass {folder}")
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _apply_landlock(policy: Policy, whole_host: bool) -> None:
    readable = [*policy.roots.readable(), "/sys"] if whole_host else ["/"]
    devices = [f"/dev/{name}" for name in device_files()]
    apply_landlock(readable, [policy.scratch, *([] if whole_host else ["/dev/shm"])], ["/proc", *devices], tcp=policy.loopback)
