"""Which files of this host workers and compilers need: system folders, Python, the CUDA toolkit, a few files of the package.

Everything else is not there for them: task folders with their oracles, the judge, home folders, other users' files.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store", "/run/opengl-driver")
_ETC = (
    "alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "nsswitch.conf", "os-release", "debian_version",
    "ssl/openssl.cnf", "OpenCL", "nvidia",
)
_PACKAGE = ("__init__.py", "protocol.py", "_cuda.py", "worker", "include")
"""What a worker may import late and a compiler includes."""
_TOOLS = ("c++", "g++", "gcc", "cc", "clang", "nvcc", "ninja", "ld", "as")
PACKAGE = Path(__file__).parent.parent
_PROJECT = (PACKAGE, Path(__file__).resolve().parent.parent)
"""The package where it was imported from, and where its files lie."""


class Roots(NamedTuple):
    """Files and folders that are readable, at the same paths as outside.

    Attributes:
        folders: Absolute paths, none below another.
        masked: Folders below them that are not shown.
        parts: Paths below masked or missing folders that are shown all the same.
    """

    folders: tuple[str, ...]
    masked: tuple[str, ...]
    parts: tuple[str, ...]

    def readable(self) -> tuple[str, ...]:
        """Every path that may be read, for hosts on which the others cannot be hidden: then nothing is masked, so no folder that
        holds something masked is among them; its other entries are.
        """
        shown: list[str] = []
        for folder in self.folders:
            shown += _around(Path(folder), [Path(mask) for mask in self.masked])
        return (*shown, *self.parts)


def find_roots(extra: Iterable[str] = ()) -> Roots:
    """What this process, its tools and its package need.

    Args:
        extra: More folders and files to show.
    """
    wanted = [path for path in _SYSTEM if os.path.exists(path)]
    wanted += [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix]
    wanted += [entry for entry in sys.path if entry and os.path.isabs(entry)]
    wanted += [entry for entry in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if os.path.isabs(entry)]
    wanted += [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.path.isabs(os.environ.get(name, ""))]
    wanted += list(_tool_folders())
    prefixes = [Path(path) for path in (sys.prefix, sys.base_prefix, "/usr")]
    folders = _outermost(path for path in {*wanted, *map(os.path.realpath, wanted)} if _may_show(Path(path), prefixes))
    private = [str(PACKAGE), *(entry for entry in os.environ.get("FASTKERNELS_ENV_PATH", "").split(os.pathsep) if os.path.isdir(entry))]
    masked = _outermost(path for path in private if any(Path(path).is_relative_to(folder) for folder in folders))
    parts = [str(PACKAGE / name) for name in _PACKAGE] + [f"/etc/{name}" for name in _ETC] + list(extra)
    return Roots(tuple(folders), tuple(masked), tuple(path for path in parts if os.path.exists(path)))


def _tool_folders() -> Iterable[str]:
    """Where compilers are installed: the folder above that of the program."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), os.path.join(home, "bin")])
    for tool in (*_TOOLS, os.environ.get("CXX", "c++")):
        found = shutil.which(tool, path=path)
        if found is not None:
            yield str(Path(os.path.realpath(found)).parent.parent)


def _may_show(path: Path, prefixes: list[Path]) -> bool:
    """Whether a folder may be shown whole: it exists, is no top of a tree that holds more than tools, and does not hold this project."""
    if not path.exists() or path in (Path("/"), Path.home(), Path("/home"), Path("/root"), Path("/etc"), Path("/tmp")):
        return False
    if not any(place.is_relative_to(path) or place.is_relative_to(path.resolve()) for place in _PROJECT):
        return True
    if any(path.glob(f"{PACKAGE.name}-*.dist-info")):
        return True  # a folder into which packages were installed, this one too
    return any(PACKAGE.is_relative_to(prefix) and path.is_relative_to(prefix) for prefix in prefixes)


def _outermost(paths: Iterable[str]) -> list[str]:
    """Paths without those that lie below another."""
    kept: list[Path] = []
    for path in sorted(Path(path) for path in paths):
        if not any(path.is_relative_to(other) for other in kept):
            kept.append(path)
    return [str(path) for path in kept]


def _around(folder: Path, masked: list[Path]) -> list[str]:
    """A folder, or if something below it is masked, what lies beside that."""
    if not any(mask.is_relative_to(folder) for mask in masked):
        return [str(folder)]
    if folder in masked:
        return []
    return [path for entry in folder.iterdir() for path in _around(entry, masked)]


def unreadable(roots: Roots) -> str:
    """The first of the folders that another user cannot enter; empty if there is none."""
    for path in (*roots.folders, *roots.parts):
        mode = os.stat(path).st_mode
        wanted = 0o5 if os.path.isdir(path) else 0o4
        if mode & wanted != wanted:
            return path
    return ""


def unreachable(path: str) -> str:
    """The folder on the way to a path that another user cannot pass; empty if there is none."""
    return next((str(folder) for folder in Path(path).parents if not folder.stat().st_mode & 0o001), "")
