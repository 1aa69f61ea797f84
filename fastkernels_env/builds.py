"""Builds of native code that are kept between evaluations: the same source, judged again, is not compiled again.

The judge alone reads and writes them. What a build makes is kept under a key that the judge computes from the source and from all that it
is compiled with, so that a submission has no say in what another one gets. Where submissions or their compilers lack a layer of containment
they might reach the folder, and nothing is kept or used.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import ClassVar

from . import _compile
from .cache import cache_root
from .forkserver import settings
from .sandbox.layers import Report
from .types import Language, Submission
from .versions import versions

MOST = 512
"""Builds that are kept; the ones that were used last."""


class KeptBuilds:
    """Builds in a folder of this user's.

    Args:
        folder: It is made when the first build is kept.

    Attributes:
        seen: The settings under which the last build of this process had every layer of containment, so that no submission can reach the
            folder. Under others nothing is fetched and nothing is kept.
    """

    seen: ClassVar[dict[str, str] | None] = None

    @property
    def trusted(self) -> bool:
        """Whether builds may be kept and fetched."""
        return self.seen == settings()

    @classmethod
    def note(cls, report: Report | None) -> None:
        """What held the compilers of a build under the present settings."""
        cls.seen = settings() if report is not None and not report.missing else None

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or cache_root() / "builds"

    def fetch(self, key: str, artifact: Path, output: Path) -> bool:
        """Copy what was built, and what the compiler said, to these paths; False if it is not there."""
        if not self.trusted:
            return False
        kept = self._folder / key
        try:
            shutil.copyfile(kept / "artifact", artifact)
            shutil.copyfile(kept / "output", output)
            os.utime(kept)
        except OSError:
            return False
        return True

    def keep(self, key: str, artifact: Path, output: Path) -> None:
        """Keep a build, whole or not at all; a folder that cannot be written keeps none."""
        if self.trusted:
            with contextlib.suppress(OSError):
                self.adopt(key, artifact.read_bytes(), output.read_bytes())

    def adopt(self, key: str, artifact: bytes, output: bytes) -> bool:
        """Keep a build, whole or not at all, wherever it was made; whether it is there. Who does not trust the folder does not use it."""
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            made = Path(tempfile.mkdtemp(dir=self._folder, prefix="."))
            try:
                (made / "artifact").write_bytes(artifact)
                (made / "output").write_bytes(output)
                made.rename(self._folder / key)
            except OSError:
                shutil.rmtree(made, ignore_errors=True)
            self._prune()
        return (self._folder / key).is_dir()

    def _prune(self) -> None:
        kept = [path for path in self._folder.iterdir() if not path.name.startswith(".")]
        if len(kept) > MOST:
            for path in sorted(kept, key=lambda path: path.stat().st_mtime)[: len(kept) - MOST]:
                shutil.rmtree(path, ignore_errors=True)


def key_of(submission: Submission, link: bool) -> str:
    """What a build depends on: source, entry and language, flags and headers, versions, compilers; the processor, if it is C++."""
    parts = [submission.code, submission.entry, submission.ops, str(submission.language), link]
    parts += [_compile.CPP_FLAGS, _compile.CUDA_FLAGS, _compile.CUDA_ARCH]
    processor = _processor() if submission.language is Language.CPP else ""  # nvcc is not given the flags of C++
    return hashlib.sha256(json.dumps([*parts, *_surroundings(), processor]).encode("utf-8", "surrogatepass")).hexdigest()[:32]


@functools.cache
def _surroundings() -> list[object]:
    headers = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(_compile.INCLUDE.rglob("*")) if path.is_file())).hexdigest()
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    tools = [_identity(shutil.which(os.environ.get("CXX", "c++"))), _identity(shutil.which("nvcc") or f"{home}/bin/nvcc")]
    return [sorted(versions().items()), headers, _compile.PRELUDE, tools]


def _identity(tool: str | None) -> list[object]:
    """Where a compiler lies, how large it is and when it came."""
    if tool is None or not os.path.exists(tool):
        return []
    status = os.stat(tool)
    return [os.path.realpath(tool), status.st_size, status.st_mtime_ns]


@functools.cache
def _processor() -> str:
    """What ``-march=native`` goes by."""
    with contextlib.suppress(OSError, StopIteration), open("/proc/cpuinfo") as file:
        return next(line for line in file if line.startswith("flags"))
    return ""
