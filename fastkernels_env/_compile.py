"""Compile one native source; run as ``python -P -m fastkernels_env._compile JOB`` in a process of its own that can be killed.

``JOB`` is a JSON object: ``language`` (cpp or cuda), ``entry``, ``source`` (path), ``folder`` (for the build), ``link`` (false: object
file only). Prints one line of JSON: ``{"path": ...}`` or ``{"error": ...}``, with the compiler's log.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

CPP_FLAGS = ["-O3", "-march=native", "-fopenmp"]
CUDA_FLAGS = ["-O3", "-Xptxas=-v"]
CUDA_ARCH = "9.0a"
INCLUDE = Path(__file__).parent / "include"


def main(job: dict[str, object]) -> dict[str, str]:
    """Compile a job; see the module's docstring."""
    os.environ.setdefault("TVM_FFI_CUDA_ARCH_LIST", CUDA_ARCH)
    os.environ["TVM_FFI_GPU_BACKEND"] = "cuda"
    sys.modules["torch"] = None  # type: ignore[assignment]  # tvm-ffi would import it, for one to two seconds and for nothing
    import tvm_ffi.cpp  # after the environment: it reads the target there

    suffix = "cu" if job["language"] == "cuda" else "cpp"
    code = f'#line 1 "submission.{suffix}"\n' + Path(str(job["source"])).read_text()
    try:
        path = tvm_ffi.cpp.build_inline(
            "submission", functions=[str(job["entry"])], **{f"{'cuda' if suffix == 'cu' else 'cpp'}_sources": code},
            extra_cflags=CPP_FLAGS, extra_cuda_cflags=CUDA_FLAGS, extra_ldflags=["-fopenmp"], extra_include_paths=[str(INCLUDE)],
            build_directory=str(job["folder"]), output=None if job["link"] else "submission.o",
        )
    except RuntimeError as error:
        return {"error": str(error)}
    return {"path": path}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
