"""Compile one native source; run as a script, ``python -P _compile.py JOB``, in a process of its own that can be killed.

``JOB`` is a JSON object: ``language`` (cpp or cuda), ``entry``, ``source`` (path), ``folder`` (for the build), ``link`` (false:
object file only), ``prelude`` (a header to include first, precompiled by ``_compile.py --prelude FOLDER``; or empty). Prints one line:
``{"path": ...}``; ``{"error": ...}``, with the compiler's log; or ``{"fault": ...}``: what this host lacks. Imports nothing of the
package, so that it starts at once.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

CPP_FLAGS = ["-O3", "-march=native", "-fopenmp"]
CUDA_FLAGS = ["-O3", "-Xptxas=-v"]
CUDA_ARCH = "9.0a"
PRELUDE = (
    "tvm/ffi/container/tensor.h", "tvm/ffi/dtype.h", "tvm/ffi/error.h", "tvm/ffi/extra/c_env_api.h", "tvm/ffi/function.h", "fastkernels.h",
)
INCLUDE = Path(__file__).parent / "include"


def main(job: dict[str, object]) -> dict[str, str]:
    """Compile a job; see the module's docstring."""
    if lacking := _find_tools(str(job["language"])):
        return {"fault": lacking}
    os.environ.setdefault("TVM_FFI_CUDA_ARCH_LIST", CUDA_ARCH)
    os.environ["TVM_FFI_GPU_BACKEND"] = "cuda"
    sys.modules["torch"] = None  # type: ignore[assignment]  # tvm-ffi would import it, for one to two seconds and for nothing
    import tvm_ffi.cpp  # after the environment: it reads the target there

    suffix = "cu" if job["language"] == "cuda" else "cpp"
    prelude = [str(job["prelude"])] if job["prelude"] else PRELUDE  # the same headers either way: what builds must not depend on a cache
    code = f'#line 1 "submission.{suffix}"\n' + Path(str(job["source"])).read_text()
    try:
        path = tvm_ffi.cpp.build_inline(
            "submission", functions=[str(job["entry"])],
            cpp_sources=code if suffix == "cpp" else None, cuda_sources=code if suffix == "cu" else None,
            extra_cflags=CPP_FLAGS + [flag for header in prelude for flag in ("-include", header)], extra_cuda_cflags=CUDA_FLAGS,
            extra_ldflags=["-fopenmp"], extra_include_paths=[str(INCLUDE)],
            build_directory=str(job["folder"]), output=None if job["link"] else "submission.o",
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
    else:
        print(json.dumps(main(json.loads(sys.argv[1]))))
