"""A mount namespace in which a process finds little: read-only tools at their usual paths, a private /dev and /proc, its scratch folder.

Folders on the way to something that is shown are made anew, so a path works although its ancestors belong to somebody else.
"""

from __future__ import annotations

import os
from pathlib import Path

from . import linux
from .limits import Limits
from .roots import Roots

_DEVICES = ("null", "zero", "full", "random", "urandom")
_GPU = ("nvidia", "dxg")
_READ_ONLY = linux.ATTR_RDONLY | linux.ATTR_NOSUID | linux.ATTR_NODEV
_LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"}


def enter_view(roots: Roots, scratch: str, uid: int, limits: Limits) -> None:
    """Make the view and enter it. This process must be alone in a mount namespace, and in a PID namespace of its own.

    Args:
        roots: What is shown.
        scratch: An existing folder; in the view an empty, size-limited one lies at its path.
        uid: Who owns the scratch folder.
        limits: Sizes.

    Raises:
        OSError: The kernel refuses a step. The process then still has the whole file system.
    """
    linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)
    new = scratch  # any folder that exists: the new root is mounted on it, in this namespace only
    linux.mount("tmpfs", new, "tmpfs", linux.MS_NOSUID, "size=4m,nr_inodes=16384,mode=0755")
    for path in roots.folders:
        _show(new, path)
    for path in roots.masked:
        linux.mount("tmpfs", new + path, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "size=1m,mode=0755")
    for path in roots.parts:
        _show(new, path)
    _write_users(new, uid)
    _make_devices(new, uid, limits)
    os.makedirs(f"{new}/proc")
    linux.mount("proc", f"{new}/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
    os.makedirs(f"{new}/tmp", exist_ok=True)
    if os.path.isdir("/sys"):
        _show(new, "/sys")
    os.makedirs(new + scratch, exist_ok=True)
    options = f"size={limits.scratch},nr_inodes=262144,mode=0700,uid={uid},gid={uid}"
    linux.mount("tmpfs", new + scratch, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, options)
    for path in (*roots.masked, ""):
        linux.restrict_mount(new + path, linux.ATTR_RDONLY | linux.ATTR_NOSUID, recursive=False)
    linux.enter_root(new)


def _show(new: str, path: str) -> None:
    """Bind a path of the old root at the same place, read-only; a link stays a link."""
    target = new + path
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(path) and os.path.isdir(path):
        real = os.path.realpath(path)
        if not os.path.lexists(target) and os.path.dirname(path) == "/":
            os.symlink(os.path.relpath(real, "/"), target)
            return
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    elif not os.path.exists(target):
        Path(target).touch()
    linux.mount(path, target, flags=linux.MS_BIND | linux.MS_REC)
    linux.restrict_mount(target, _READ_ONLY)


def _write_users(new: str, uid: int) -> None:
    """Who is there: root, and the user of the worker."""
    Path(new, "etc", "passwd").write_text(f"root:x:0:0:root:/:/bin/false\nworker:x:{uid}:{uid}:worker:/:/bin/false\n")
    Path(new, "etc", "group").write_text(f"root:x:0:\nworker:x:{uid}:\n")


def _make_devices(new: str, uid: int, limits: Limits) -> None:
    os.makedirs(f"{new}/dev/shm")
    options = f"size={limits.shared},nr_inodes=4096,mode=1777"
    linux.mount("tmpfs", f"{new}/dev/shm", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, options)
    for name in device_files():
        target = f"{new}/dev/{name}"
        os.makedirs(os.path.dirname(target), exist_ok=True)
        Path(target).touch()
        linux.mount(f"/dev/{name}", target, flags=linux.MS_BIND)
        linux.restrict_mount(target, linux.ATTR_NOSUID, recursive=False)
    for name, target in _LINKS.items():
        os.symlink(target, f"{new}/dev/{name}")


def device_files() -> list[str]:
    """Device files of the view, below ``/dev``: those without which no program runs, and the GPU's."""
    found = [name for name in _DEVICES if os.path.exists(f"/dev/{name}")]
    for name in sorted(os.listdir("/dev")):
        if name.startswith(_GPU):
            path = Path("/dev", name)
            found += [f"{name}/{entry.name}" for entry in path.iterdir()] if path.is_dir() else [name]
    return found
