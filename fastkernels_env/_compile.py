"""Compile one native source; run as a script, ``python -P _compile.py JOB``, in a process of its own that can be killed.

``JOB`` is a JSON object: ``language`` (cpp or cuda), ``functions`` (to export), ``source`` (path), ``folder`` (an empty one for the build),
``artifact`` (path to write the result to), ``output`` (path for what compilers print), ``link`` (false: object file only), ``prelude`` (a
header to include first, precompiled by ``_compile.py --prelude FOLDER``; or empty), ``strict`` (refuse where a layer of containment is
missing).

Prints two lines: ``{"missing": ...}``, the layers of containment that the compilers lack, with reasons; then one of ``{"built": ""}``,
``{"error": ...}``: the compiler's log, ``{"ended": ...}``: what the build took too much of, ``{"fault": ...}``: what this host lacks.
``_compile.py --probe FOLDER`` prints the first line only. Compilers, and all that looks at the source, run in a confined tree (see
`sandbox.confine`); this process only starts it and watches. Imports nothing else of the package, so that it starts at once.
"""

from __future__ import annotations

import importlib.util
import json
import os
import select
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

CPP_FLAGS = ["-O3", "-march=native", "-fopenmp"]
CUDA_FLAGS = ["-O3", "-Xptxas=-v"]
CUDA_ARCH = "9.0a"
PRELUDE = (
    "tvm/ffi/container/tensor.h", "tvm/ffi/dtype.h", "tvm/ffi/error.h", "tvm/ffi/extra/c_env_api.h", "tvm/ffi/function.h", "fastkernels.h",
)
INCLUDE = Path(__file__).parent / "include"


_MOST_ANSWER = 4 << 20
_MOST_LOG = 1 << 20


def main(job: dict[str, object]) -> dict[str, str]:
    """Start the confined tree that compiles a job, watch it, and collect what it made; see the module's docstring."""
    sandbox = _sandbox()
    limits = sandbox.limits.default_limits()
    code = Path(str(job["source"])).read_text()
    prelude = str(Path(str(job["prelude"])).parent) if job["prelude"] else ""
    roots = sandbox.roots.find_roots([prelude] if prelude else [])
    answer, answered = os.pipe2(os.O_CLOEXEC)
    artifact = os.open(str(job["artifact"]), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    output = os.open(str(job["output"]), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def run() -> None:
        _answer(answered, _compile_in_scratch(job, code, artifact))

    policy = sandbox.running.Policy(str(job["folder"]), roots, limits)
    tree = sandbox.confine.start(policy, run, {answered, artifact}, output)
    os.close(answered)
    print(json.dumps({"missing": tree.report.missing}), flush=True)
    try:
        if job["strict"] and tree.report.missing:
            return {"fault": sandbox.layers.refusal(tree.report.missing)}
        text = _collect(answer, tree, sandbox.watch.PERIOD)
    finally:
        tree.end()
    if tree.reason:
        return {"ended": tree.reason}
    try:
        return {key: str(value) for key, value in json.loads(text).items() if key in ("built", "error", "fault")}
    except (ValueError, AttributeError):
        return {"error": "the compiler's process ended without an answer"}


def probe(folder: str) -> None:
    """Confine a process that does nothing, and say which layers it lacks."""
    sandbox = _sandbox()
    policy = sandbox.running.Policy(folder, sandbox.roots.find_roots(), sandbox.limits.default_limits())
    tree = sandbox.confine.start(policy, lambda: None, set(), os.memfd_create("log", os.MFD_CLOEXEC))
    print(json.dumps({"missing": tree.report.missing}))
    tree.end()


def _sandbox() -> ModuleType:
    """The package's `sandbox`, without the package around it."""
    folder = Path(__file__).parent / "sandbox"
    spec = importlib.util.spec_from_file_location("sandbox", folder / "__init__.py", submodule_search_locations=[str(folder)])
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["sandbox"] = module
    spec.loader.exec_module(module)
    importlib.import_module("sandbox.confine")
    return module


def _collect(answer: int, tree: Any, period: float) -> bytes:
    """What the tree answers, until it closes the pipe, says too much, or is ended for what it took."""
    text = b""
    while len(text) < _MOST_ANSWER:
        if not select.select([answer], [], [], period)[0]:
            tree.look()
            continue
        data = os.read(answer, 1 << 16)
        if not data:
            break
        text += data
    return text


def _answer(descriptor: int, answer: dict[str, str]) -> None:
    with open(descriptor, "w") as pipe:
        json.dump(answer, pipe)


def _compile_in_scratch(job: dict[str, object], code: str, artifact: int) -> dict[str, str]:
    """Compile in the working folder; runs confined. The result goes into a file that this process alone has open."""
    folder = os.getcwd()
    os.environ.update(TMPDIR=folder, HOME=folder, TVM_FFI_CACHE_DIR=folder)
    answer = compile_source(job, code, folder)
    if "path" in answer:
        with open(answer["path"], "rb") as built, open(artifact, "wb") as kept:
            shutil.copyfileobj(built, kept)
        return {"built": ""}
    return {key: text[:_MOST_LOG] for key, text in answer.items()}


def compile_source(job: dict[str, object], code: str, folder: str) -> dict[str, str]:
    """Compile into `folder`; ``path`` of what was built, ``error`` or ``fault``."""
    if lacking := _find_tools(str(job["language"])):
        return {"fault": lacking}
    os.environ.setdefault("TVM_FFI_CUDA_ARCH_LIST", CUDA_ARCH)
    os.environ["TVM_FFI_GPU_BACKEND"] = "cuda"
    sys.modules["torch"] = None  # type: ignore[assignment]  # tvm-ffi would import it, for one to two seconds and for nothing
    import tvm_ffi.cpp  # after the environment: it reads the target there

    functions = job["functions"]
    assert isinstance(functions, list)
    suffix = "cu" if job["language"] == "cuda" else "cpp"
    prelude = [str(job["prelude"])] if job["prelude"] else PRELUDE  # the same headers either way: what builds must not depend on a cache
    code = f'#line 1 "submission.{suffix}"\n{code}'
    try:
        path = tvm_ffi.cpp.build_inline(
            "submission", functions=[str(name) for name in functions],
            cpp_sources=code if suffix == "cpp" else None, cuda_sources=code if suffix == "cu" else None,
            extra_cflags=CPP_FLAGS + [flag for header in prelude for flag in ("-include", header)], extra_cuda_cflags=CUDA_FLAGS,
            extra_ldflags=["-fopenmp"], extra_include_paths=[str(INCLUDE)],
            build_directory=f"{folder}/build", output=None if job["link"] else "submission.o",
        )
    except RuntimeError as error:
        return {"error": str(error)}
    return {"path": path}


def precompile(folder: Path) -> Path:
    """Write the prelude of C++ submissions into `folder` and precompile it with their flags; returns the header's path.

    Raises:
        OSError, subprocess.CalledProcessError: There is no compiler, or it fails.
    """
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    from tvm_ffi.libinfo import find_dlpack_include_path, find_include_path

    header = folder / "prelude.h"
    header.write_text("".join(f"#include <{name}>\n" for name in PRELUDE))
    includes = [f"-I{path}" for path in (find_include_path(), find_dlpack_include_path(), INCLUDE)]
    flags = ["-std=c++17", "-fPIC", "-O2", *CPP_FLAGS]  # the first three are tvm-ffi's own: a precompiled header fits one set of flags
    command = [os.environ.get("CXX", "c++"), *flags, *includes, "-x", "c++-header", str(header), "-o", f"{header}.{os.getpid()}"]
    subprocess.run(command, check=True, capture_output=True)
    os.replace(command[-1], f"{header}.gch")  # whole or not there, also where two processes write it
    return header


def _find_tools(language: str) -> str:
    """Put ninja on the path, where an environment that is not activated lacks it; say what else is missing."""
    if shutil.which("ninja") is None:
        import ninja

        os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), ninja.BIN_DIR])
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        return f"this host cannot build: there is no C++ compiler {compiler!r} on PATH; install one with OpenMP, such as g++"
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    if language == "cuda" and shutil.which("nvcc", path=os.pathsep.join([os.environ["PATH"], os.path.join(home, "bin")])) is None:
        return "this host cannot build CUDA C++: there is no nvcc on PATH or in CUDA_HOME; install the CUDA toolkit"
    return ""


if __name__ == "__main__":
    if sys.argv[1] == "--prelude":
        precompile(Path(sys.argv[2]))
    elif sys.argv[1] == "--probe":
        probe(sys.argv[2])
    else:
        print(json.dumps(main(json.loads(sys.argv[1]))))
