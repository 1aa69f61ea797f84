"""Source to artefact. Runs compilers in processes of their own; never loads what they make."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from .builds import KeptBuilds, key_of
from .cache import cache_root
from .clock import now
from .device import DeviceError, MissingTool
from .forkserver import settings, tool_environment
from .sandbox import tree
from .sandbox.layers import Report
from .types import Artifact, Language, Submission
from .versions import versions

_COMPILE = Path(__file__).parent / "_compile.py"
BUILD_SECONDS = 120.0
_LOG_LINES = 40


class BuildError(Exception):
    """The source does not compile. `log` is the compiler's output, trimmed around the error."""

    def __init__(self, summary: str, log: str = "") -> None:
        super().__init__(summary)
        self.summary, self.log = summary, log


class BuildTimeout(BuildError):
    """The compiler did not finish in time."""


class Build:
    """A build under way. Use as a context manager: leaving it ends the compiler and removes the folder.

    Args:
        submission: What to build.
        link: False to compile only (a CUDA source on a host without a GPU).
        strict: Refuse to compile where a layer of containment is missing.

    Attributes:
        submission: What is being built.
    """

    def __init__(self, submission: Submission, link: bool = True, strict: bool = False) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fastkernels-build-"))
        self.folder.chmod(0o711)  # compilers run as another user and get to their own folder in it
        self.submission = submission
        self._process: subprocess.Popen[bytes] | None = None
        self._start = now()
        self.seconds = 0.0
        suffix = {Language.PYTHON: "py", Language.CPP: "cpp", Language.CUDA: "cu"}[submission.language]
        self._source = self.folder / f"submission.{suffix}"
        self._source.write_text(submission.code)
        self._source.chmod(0o600)
        self._built = self.folder / ("submission.so" if link else "submission.o")
        self._key = "" if submission.language is Language.PYTHON else key_of(submission, link)
        self._kept = bool(self._key) and KeptBuilds().fetch(self._key, self._built, self.folder / "output")
        if self._key and not self._kept:
            self._process = self._launch(link, strict)

    def _launch(self, link: bool, strict: bool) -> subprocess.Popen[bytes]:
        submission = self.submission
        job = {
            "language": str(submission.language), "functions": submission.ops or (submission.entry,), "source": str(self._source),
            "folder": str(self.folder / "build"), "artifact": str(self._built), "output": str(self.folder / "output"),
            "link": link, "prelude": _prelude(), "strict": strict,
        }
        (self.folder / "build").mkdir()
        self._answer = (self.folder / "answer").open("wb")
        return subprocess.Popen(
            [sys.executable, "-P", str(_COMPILE), json.dumps(job)],
            stdin=subprocess.DEVNULL, stdout=self._answer, stderr=subprocess.STDOUT, start_new_session=True, cwd=self.folder,
            env=tool_environment() | settings(),
        )

    def result(self, seconds: float = BUILD_SECONDS) -> Artifact:
        """Wait for the artefact.

        Raises:
            BuildError: The source does not compile.
            BuildTimeout: The compiler took longer than `seconds`.
            MissingTool: This host lacks a compiler.
        """
        if self._kept:
            self.seconds = now() - self._start
            return self._artifact(str(self._built), (self.folder / "output").read_text(errors="replace"))
        if self._process is None:
            return self._check_python()
        left = max(seconds - (now() - self._start), 0.1)
        if not _ended_within(self._process.pid, left):
            raise BuildTimeout(f"the compiler did not finish within {seconds:.0f} s")
        self._process.wait()
        self.seconds = now() - self._start
        said = (self.folder / "answer").read_text(errors="replace")
        try:
            answer = json.loads(said.strip().splitlines()[-1])
        except (IndexError, json.JSONDecodeError):
            raise DeviceError(f"the process that starts compilers ended without an answer: {said.strip()[-300:]}") from None
        if "fault" in answer:
            raise MissingTool(answer["fault"])
        if "ended" in answer:
            raise BuildError(f"the build {answer['ended']}")
        if "error" in answer:
            log = trim_log(answer["error"])
            raise BuildError(first_error(log), log)
        KeptBuilds.note(self.report)
        KeptBuilds().keep(self._key, self._built, self.folder / "output")
        return self._artifact(str(self._built), (self.folder / "output").read_text(errors="replace"))

    @property
    def report(self) -> Report | None:
        """What holds the compiler; None where none runs, or it has not been confined yet. A build that was kept had every layer."""
        if self._kept:
            return Report.of_tree({})
        if self._process is not None:
            with contextlib.suppress(OSError, IndexError, KeyError, json.JSONDecodeError):
                said = (self.folder / "answer").read_text().splitlines()
                return Report.of_tree(json.loads(said[0])["missing"])
        return None

    def _check_python(self) -> Artifact:
        try:
            compile(self.submission.code, "submission.py", "exec")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # the last two: nested too deeply
            line = f"line {error.lineno}: " if isinstance(error, SyntaxError) and error.lineno else ""
            raise BuildError(f"{line}{type(error).__name__}: {error}", str(error)) from None
        self.seconds = now() - self._start
        return self._artifact(str(self._source), "")

    def _artifact(self, path: str, log: str) -> Artifact:
        submission = self.submission
        return Artifact(
            path=path, language=submission.language, entry=submission.entry, has_prepare=submission.has_prepare,
            has_plan=submission.has_plan, ops=submission.ops, log=trim_log(log) if "error" in log else "", resources=ptxas_resources(log),
        )

    def __enter__(self) -> Build:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the compiler and everything it started; remove the folder."""
        if self._process is not None:
            tree.kill(self._process.pid)
            self._process.wait()
            self._answer.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _ended_within(pid: int, seconds: float) -> bool:
    """Wait for a child without the up to 50 ms between two looks that `subprocess` takes."""
    descriptor = os.pidfd_open(pid)
    try:
        deadline = now() + seconds
        while not select.select([descriptor], [], [], max(deadline - now(), 0.0))[0]:
            if now() >= deadline:
                return False
        return True
    finally:
        os.close(descriptor)


def precompile_prelude() -> bool:
    """Precompile the headers that every C++ submission includes, once per host and version; False where that fails."""
    folder = _prelude_folder()
    if (folder / "prelude.h.gch").exists():
        return True
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.run([sys.executable, "-P", str(_COMPILE), "--prelude", str(folder)], capture_output=True).returncode == 0


def _prelude() -> str:
    header = _prelude_folder() / "prelude.h"
    return str(header) if header.with_suffix(".h.gch").exists() else ""


def _prelude_folder() -> Path:
    key = hashlib.sha256(repr((sys.prefix, sorted(versions().items()))).encode()).hexdigest()[:12]
    return cache_root() / f"prelude-{key}"


def probe_containment() -> Report:
    """What holds compilers and workers on this host, by confining a process that does nothing.

    Raises:
        DeviceError: No process could be confined at all.
    """
    with tempfile.TemporaryDirectory(prefix="fastkernels-probe-") as folder:
        command = [sys.executable, "-P", str(_COMPILE), "--probe", folder]
        done = subprocess.run(command, capture_output=True, text=True, env=tool_environment() | settings())
    try:
        return Report.of_tree(json.loads(done.stdout)["missing"])
    except (json.JSONDecodeError, KeyError):
        raise DeviceError(f"no process can be confined on this host: {(done.stderr.strip() or 'no answer')[-300:]}") from None


def has_nvcc() -> bool:
    """Whether a CUDA compiler can be found."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    return shutil.which("nvcc") is not None or Path(home, "bin", "nvcc").exists()


def trim_log(log: str) -> str:
    """A compiler's log around its first error: notes from library headers cut, at most 40 lines."""
    lines = [line for line in log.splitlines() if not line.startswith(("ninja", "[", "FAILED", "stdout", "c++ ", "In file included"))]
    lines = [line for line in lines if "-MMD" not in line and "nvcc" not in line[:40]]
    first = next((number for number, line in enumerate(lines) if re.search(r"\berror\b", line, re.IGNORECASE)), 0)
    kept = lines[max(first - 3, 0) : first + _LOG_LINES]
    return "\n".join(line[:400] for line in kept)


def first_error(log: str) -> str:
    """The first error line of a trimmed log."""
    line = next((line for line in log.splitlines() if re.search(r"\berror\b", line, re.IGNORECASE)), "")
    return (line or log.strip().partition("\n")[0] or "the compiler failed without a message").strip()[:300]


def ptxas_resources(log: str) -> dict[str, float]:
    """Largest register, shared-memory and spill figures that ptxas printed."""
    patterns = {"registers": r"Used (\d+) registers", "shared_bytes": r"(\d+) bytes smem", "spill_bytes": r"(\d+) bytes spill stores"}
    found = {name: [float(value) for value in re.findall(pattern, log)] for name, pattern in patterns.items()}
    return {name: max(values) for name, values in found.items() if values}
