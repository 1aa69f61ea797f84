"""The prompt of a task: everything a writer of a kernel has to know, and nothing about the hidden inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from ._compile import CPP_FLAGS, CUDA_ARCH, CUDA_FLAGS
from .judge.compare import MAX_GATES, SHARE_INSIDE
from .judge.parts import GROUP_SLACK, ROW_SLACK
from .ops import program_source
from .submission import LANGUAGES
from .task import Arg, Gate, Role, Task, Workload, dtype_of
from .types import Language

_CPP_SCALARS = {"float": "double", "int": "int64_t", "bool": "bool"}
_ROLES = {
    Role.OUTPUT: "output: write all of it",
    Role.INOUT: "in and out: read, then overwrite in place",
    Role.INPUT: "input: read only",
    Role.WEIGHT: "weight: read only, constant between calls",
    Role.METADATA: "metadata: read only",
    Role.SCALAR: "number, on the host",
    Role.COMM: "what the ranks reach each other through",
}
_TAGS = {Language.PYTHON: "python", Language.CPP: "cpp", Language.CUDA: "cuda"}

_TRITON_EXAMPLE = """\
import triton
import triton.language as tl


@triton.jit
def scale_kernel(out, input, factor, count, BLOCK: tl.constexpr):
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < count
    values = tl.load(input + offsets, mask=mask).to(tl.float32)
    tl.store(out + offsets, (values * factor).to(out.dtype.element_ty), mask=mask)


def scale(out, input, factor):
    count = input.numel()
    if count:
        scale_kernel[(triton.cdiv(count, 1024),)](out, input, factor, count, BLOCK=1024)
"""

_CPP_EXAMPLE = """\
#include <fastkernels.h>

template <typename T>
static void run(T* out, const T* input, float factor, int64_t count) {
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < count; ++i) fk::store(out + i, fk::load(input + i) * factor);
}

void scale(tvm::ffi::TensorView out, tvm::ffi::TensorView input, double factor) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>(fk::data<T>(out), fk::data<T>(input), float(factor), input.numel());
  });
}
"""

_CUDA_EXAMPLE = """\
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/extra/c_env_api.h>

__global__ void scale_kernel(__nv_bfloat16* out, const __nv_bfloat16* input, float factor, int64_t count) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) out[i] = __float2bfloat16(__bfloat162float(input[i]) * factor);
}

void scale(tvm::ffi::TensorView out, tvm::ffi::TensorView input, double factor) {
  const int64_t count = input.numel();
  if (count == 0) return;
  const DLDevice device = input.device();
  auto* stream = static_cast<cudaStream_t>(TVMFFIEnvGetStream(device.device_type, device.device_id));
  scale_kernel<<<unsigned((count + 255) / 256), 256, 0, stream>>>(
      static_cast<__nv_bfloat16*>(out.data_ptr()), static_cast<const __nv_bfloat16*>(input.data_ptr()), float(factor), count);
  TVM_FFI_ICHECK(cudaGetLastError() == cudaSuccess) << "launch failed";
}
"""

EXAMPLES = {Language.PYTHON: _TRITON_EXAMPLE, Language.CPP: _CPP_EXAMPLE, Language.CUDA: _CUDA_EXAMPLE}
"""A submission for the made-up task ``scale(out, input, factor)``, by language: what the prompt shows of the calling convention."""

_CPP_NOTES = (
    "C++: one translation unit, compiled with `g++ {flags}`. A tensor is a `tvm::ffi::TensorView`: `data_ptr()`, `size(i)`, "
    "`stride(i)` (in elements), `ndim()`, `numel()`, `dtype()`. `#include <fastkernels.h>` brings that type and a few helpers: "
    "`fk::data<T>(tensor)`, a typed pointer; `fk::load(p)`, an element as float; `fk::store(p, v)`, a float rounded to the "
    "element's type; `fk::bf16`, bfloat16 in memory; `fk::dispatch(dtype, body)`, which calls `body(float{{}})` or "
    "`body(fk::bf16{{}})`. Do not export the function yourself."
)
_CUDA_NOTES = (
    "CUDA C++: one translation unit, compiled with `nvcc {flags}`. A tensor is a `tvm::ffi::TensorView`: `data_ptr()` (device "
    "memory), `size(i)`, `stride(i)` (in elements), `ndim()`, `numel()`, `dtype()`, `device()`. Launch on the stream that "
    "`TVMFFIEnvGetStream` returns, and check the launch. Do not export the function yourself."
)
_TRITON_NOTES = "Triton: a Python module. Tensors are torch tensors on the GPU; the current stream is the right one."
_INTERPRETED_NOTES = (
    "Triton: a Python module, run through Triton's interpreter on this device: its results are checked, but it cannot be timed "
    "here and earns no speed. Tensors are torch tensors."
)
_SETUP_NOTES = (
    "Optional, in Python only: define `plan` at module level, with the parameters of `{entry}`, and give `{entry}` a keyword-only "
    "argument of that name (`def {entry}(..., *, plan):`). `plan` is called ahead of the timed calls, once per set of inputs: "
    "metadata tensors and numbers are real, all other tensors are on the meta device. What it returns is passed as `plan=`. In the "
    "same way `prepare` sees real weights (all other tensors are meta), and its result is passed as `prepared=`; it is "
    "called again when weights are replaced, which may happen where they lie. Both are timed "
    "apart and bounded; use them as production does, to digest metadata and to repack weights."
)


def build_prompt(task: Task, device: str, device_name: str = "") -> str:
    """The prompt of a task, fit to be sent to a language model as it is.

    Args:
        task: The task.
        device: ``cpu`` or ``cuda``.
        device_name: Name of the processor, such as ``NVIDIA H200``; empty if it is not known.
    """
    return "\n\n".join(part.strip() for part in _parts(task, device, device_name)) + "\n"


def prompt_hash(prompt: str) -> str:
    """A short name for a prompt's text: the first 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def _parts(task: Task, device: str, device_name: str) -> Iterator[str]:
    workloads = task.workloads(device)
    yield f"Write a fast and correct kernel for `{task.entry}`. {task.summary}"
    yield f"It replaces this op in production: {task.mirrors}."
    yield f"## Definition\n\n{task.semantics}"
    yield f"## Signature\n\n{_signatures(task.entry, task.entry_signature, device)}"
    yield _argument_table(task.entry_signature, workloads)
    if task.ops:
        yield from _inner_operations(task, workloads, device)
    if task.ranks > 1:
        yield f"## Ranks\n\n{_ranks(task, device)}"
    yield f"## Device and languages\n\n{_device(device, device_name)}"
    yield from _languages(task, device)
    yield f"## Workloads\n\n{_workload_table(task, workloads)}"
    yield _hidden(task, device)
    yield f"## Tolerance\n\n{_tolerance(task, workloads)}"
    yield f"## Score\n\n{_score(task, device)}"
    yield f"## Rules\n\n{_rules(task, device)}"
    yield f"## Calling convention, by example\n\n{_examples(device)}"
    yield f"## Reply\n\n{_reply(task, device)}"


def _inner_operations(task: Task, workloads: list[Workload], device: str) -> Iterator[str]:
    names = ", ".join(f"`{op.name}`" for op in task.ops)
    yield (
        f"## Inner operations\n\nInstead of `{task.entry}` define one or several of its inner operations, in one language: {names}. The "
        "program below then calls yours in place of its own, and the time of the whole is what counts. They are called from Python with "
        "torch tensors (native code gets views of these), write into their outputs, take no `plan` and no `prepared`, and must be opaque "
        "operators of the compiled program. Tensors that the program makes are aligned as torch aligns them."
    )
    for op in task.ops:
        yield f"### `{op.name}`\n\n{op.semantics}\n\n{_signatures(op.name, op.signature, device)}"
        yield _argument_table(op.signature, workloads)
    yield f"### The program\n\n```python\n{program_source(task)}```"


def _signatures(name: str, signature: tuple[Arg, ...], device: str) -> str:
    python = f"```python\ndef {name}({', '.join(arg.name for arg in signature)}):\n```"
    parameters = ", ".join(f"{_CPP_SCALARS.get(arg.dtype, 'tvm::ffi::TensorView')} {arg.name}" for arg in signature)
    native = f"```{_TAGS[_native(device)]}\nvoid {name}({parameters});\n```"
    order = f"{python}\n\nor\n\n{native}" if device == "cuda" else f"{native}\n\nor\n\n{python}"
    return f"{order}\n\nThese argument names, in this order. Nothing is returned."


def _native(device: str) -> Language:
    return Language.CUDA if device == "cuda" else Language.CPP


def _argument_table(signature: tuple[Arg, ...], workloads: list[Workload]) -> str:
    rows = [(f"`{arg.name}`", _ROLES[arg.role], _shape(arg), _dtypes(arg, workloads), _note(arg)) for arg in signature]
    return _table(("argument", "role", "shape", "dtype", "notes"), rows)


def _shape(arg: Arg) -> str:
    return "" if arg.role in (Role.SCALAR, Role.COMM) else f"[{', '.join(str(dimension) for dimension in arg.shape)}]"


def _dtypes(arg: Arg, workloads: list[Workload]) -> str:
    return "" if arg.role is Role.COMM else " or ".join(dict.fromkeys(dtype_of(arg, workload) for workload in workloads))


def _note(arg: Arg) -> str:
    layout = f"rows may be {arg.row_stride} elements apart: use the tensor's stride" if arg.row_stride else ""
    return "; ".join(note for note in (arg.doc.rstrip("."), layout) if note)


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _ranks(task: Task, device: str) -> str:
    units, group = ("GPUs", "NCCL") if device == "cuda" else ("cores of one host", "gloo")
    native = (
        "In CUDA C++ `comm` is an int64 tensor in host memory: `[rank, world_size, bytes, address of rank 0's part, of rank 1's, ...]`."
        if device == "cuda"
        else "In C++ `fk::Comm c(comm)` gives `c.rank()`, `c.world_size()`, `c.bytes()`, `c.peer<T>(rank, offset)`, a pointer into a "
        "rank's part, and `c.barrier()`, which returns once every rank has called it. What a rank writes to `c.mine<T>()`, at most "
        "`c.room()` bytes, is at `c.theirs<T>(rank)` for all of them from the next barrier to the one after."
    )
    return (
        f"{task.ranks} processes (ranks) call this function together, on {task.ranks} {units}. Each gets arguments of its own, in the "
        "shapes above, and writes its own outputs; the outputs of every rank must be right, and a call takes as long as the slowest rank. "
        "`comm`, the last argument, joins them. In Python: `comm.rank`, `comm.world_size`, `comm.group` (a process group of "
        f"torch.distributed: {group}) and `comm.peers`, by rank a uint8 tensor over its part of a workspace that all ranks reach, of "
        f"{task.workspace[device] >> 10:,} KiB each. It holds zeros at first and keeps what is written between calls. {native} A rank "
        "may be ahead of another: what a peer may still read must not be overwritten."
    )


def _device(device: str, device_name: str) -> str:
    name = f" ({device_name})" if device_name else ""
    if device == "cuda":
        return f"The kernel runs on an NVIDIA GPU{name}. Write Triton or CUDA C++."
    return f"The kernel runs on a CPU{name}. Write C++: it is checked and timed. Triton is checked here, but not timed."


def _languages(task: Task, device: str) -> Iterator[str]:
    if device == "cuda":
        arch = CUDA_ARCH.replace(".", "")
        yield _TRITON_NOTES
        yield _CUDA_NOTES.format(flags=" ".join(["-std=c++17", *CUDA_FLAGS, f"-gencode=arch=compute_{arch},code=sm_{arch}"]))
    else:
        yield _CPP_NOTES.format(flags=" ".join(["-std=c++17", *CPP_FLAGS]))
        yield _INTERPRETED_NOTES
    yield _SETUP_NOTES.format(entry=task.entry)


def _workload_table(task: Task, workloads: list[Workload]) -> str:
    rows = [
        (
            workload.name,
            workload.dtype,
            ", ".join(f"{name} = {size}" for name, size in task.complete(workload.sizes).items()),
            f"{workload.count:,}",
            workload.source,
        )
        for workload in workloads
    ]
    return "The public shapes; the number of calls is the weight of a shape's time.\n\n" + _table(
        ("name", "dtype", "sizes", "calls", "where it comes from"), rows
    )


def _hidden(task: Task, device: str) -> str:
    drawn = ", ".join(f"{name} from {low:,} to {high:,}" for name, (low, high) in task.ragged[device].items())
    regimes = {regime.value for regime in task.regimes}
    lines = [
        "Other sizes, which you do not see, are drawn anew for every check"
        + (f" ({drawn}, so rarely a multiple of a tile)" if drawn else "")
        + ". Values are realistic: scales differ from channel to channel, one activation in a thousand is 20 to 50 times larger "
        "than the others, some rows are much larger or smaller than others, all zeros, all equal or of one sign, and parameters are "
        "never all ones or zeros."
    ]
    if variants := task.variants.get(device, ()):
        others = "; ".join(", ".join(f"{name} = {size:,}" for name, size in variant.items()) for variant in variants)
        lines.append(f"Some have the sizes of other models: {others}.")
    if "skewed" in regimes:
        lines.append("Skewed structure is checked too: hot and empty groups, one long sequence among short ones.")
    if "empty" in regimes:
        lines.append(f"A batch of {task.batch} = 0 is checked too: write nothing and do not fail.")
    return " ".join(lines)


def _tolerance(task: Task, workloads: list[Workload]) -> str:
    dtypes = list(dict.fromkeys((arg.plain, dtype_of(arg, workload)) for arg in task.outputs for workload in workloads))
    lines = [f"* `{name}` in {dtype}: {_gate(task, name, dtype)}" for name, dtype in dtypes]
    gates = "\n".join(lines)
    return (
        f"Results are compared with a float64 reference, on every workload:\n\n{gates}\n\n"
        f"At least {SHARE_INSIDE:.0%} of the elements must be inside that bound and none further off than {MAX_GATES:g} times the "
        "bound. The relative RMS error (norm of the error over norm of the reference) of an output may be twice that of the "
        "reference rounded to the dtype (at least as much as rounding usually costs), or twice that of the best baseline if this is "
        f"more; in a single row or column {ROW_SLACK:g} times as much, in a group such as a head or an expert {GROUP_SLACK:g} times "
        "(more where few elements make it up). So one wrong row, column or head fails even if all others are exact. NaN and infinity "
        "may stand only where the reference has them."
    )


def _gate(task: Task, name: str, dtype: str) -> str:
    if own := task.measures.get(name):
        return own
    gate: Gate | None = task.numerics.outputs.get(name) or task.numerics.gates.get(dtype)
    if gate is None:
        return "exact"
    floor = task.numerics.rms_floor.get(dtype, 0.0)
    note = f" (a relative RMS error up to {floor:g} always passes)" if floor else ""
    return f"|result - reference| <= {gate.atol:g} + {gate.rtol:g} * |reference|{note}"


def _score(task: Task, device: str) -> str:
    names = ", ".join(f"`{baseline.name}`" for baseline in task.baselines if device in baseline.devices)
    graph = " (as a CUDA graph that is replayed, if the calls can be captured)" if device == "cuda" else ""
    return (
        f"Timed are many calls on the public shapes{graph}, each call with inputs and outputs of its own, by a clock outside your "
        "process; every timed output is checked. The time is compared with that of the best production implementation on each "
        f"shape, out of: {names}. The speedup is the baselines' total time over yours, each shape weighted by its calls. Being as "
        "fast as the best baseline, by calling the same library for instance, earns little more than being right; being faster "
        "earns more. Results that only a loose test would accept cost more than code that does not build."
    )


def _rules(task: Task, device: str) -> str:
    finish = (
        "The call must be capturable in a CUDA graph: no synchronisation, no copy to the host, no `.item()`, and all work on the "
        "current stream. It may return before the work is done."
        if device == "cuda"
        else "All work is done when the call returns."
    )
    rules = (
        "Write results into the output arguments. Do not allocate results. Outputs arrive poisoned: NaN or huge values.",
        "Do not modify inputs, weights or metadata, and write nothing outside the outputs. What lies around a buffer, between strided "
        "rows, and wherever an input has no meaning, may be NaN or huge: no result may depend on it.",
        f"Every tensor starts at a multiple of {task.alignment} bytes, and strided rows lie a multiple of {task.alignment} bytes apart. "
        "No larger alignment is promised.",
        "Every call computes its results anew from its arguments. Nothing may be cached across calls but compiled kernels, plans "
        "and workspaces; never anything that depends on the values of earlier inputs.",
        finish,
        "The function must work for every size of the kind above, not only for the public ones."
        + (" Tensors may hold more than 2^31 elements: compute offsets in 64 bits." if task.overflow_workloads(device) else ""),
        "Calls are independent: outputs of one call must survive the next, and equal inputs must give "
        + ("equal bits." if task.deterministic else "equal results up to rounding."),
        "Leave global state alone: default dtypes, thread counts, random generators, environment variables. No files, no network.",
    )
    return "\n".join(f"* {rule}" for rule in rules)


def _examples(device: str) -> str:
    native = f"```{_TAGS[_native(device)]}\n{EXAMPLES[_native(device)]}```"
    python = f"```python\n{EXAMPLES[Language.PYTHON]}```"
    examples = f"{python}\n\n{native}" if device == "cuda" else f"{native}\n\n{python}"
    about = "A made-up task, `scale(out, input, factor)` with contiguous tensors, shown for the form and not for its speed."
    return f"{about}\n\n{examples}"


def _reply(task: Task, device: str) -> str:
    tags = " or ".join(f"`{_TAGS[language]}`" for language in LANGUAGES[device])
    return (
        f"Give the complete source in one fenced code block tagged {tags}. If there are several blocks, the last one that defines "
        f"`{task.entry}`{' or an inner operation' if task.ops else ''} counts. Close the fence: a reply that is cut off is rejected."
    )
