"""The global state of a process that a kernel has no business changing: a snapshot, and what differs between two of them."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import locale
import os
import random
import resource
import signal
import sys
import time
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

State = dict[str, Any]

_OURS = frozenset({"TRITON_INTERPRET"})
"""Variables that the loader sets for the submission."""
_WATCHED = (torch, torch.Tensor, torch.nn.functional, torch.cuda, torch.linalg, time)
"""Namespaces in which no function may be replaced."""
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGTRAP)
"""Libraries may print where they crash."""
_COMPILER = "triton._C.libtriton"
"""Its LLVM takes signals over when it first compiles a kernel, whoever asks it to."""
_HANDLING = "handling of "
_DEFAULT, _IGNORED = 0, 1
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
_LIMITS = tuple(name for name in dir(resource) if name.startswith("RLIMIT_"))
_LONGEST = 60


def snapshot(device: str) -> State:
    """The state now, by the name under which a change is reported. Values compare with ``==``."""
    state = {name: read() for name, read in _READERS.items()}
    if device == "cuda":
        state |= {name: read() for name, read in _CUDA_READERS.items()}
    for signum in signal.valid_signals():
        state[f"handler of {_signal_name(signum)}"] = signal.getsignal(signum)
    state |= {_HANDLING + name: how for name, how in _dispositions().items()}
    state |= {f"environment variable {name}": value for name, value in _environment().items() if name not in _OURS}
    return state | _functions()


def changes(before: State, after: State) -> list[str]:
    """What differs, one phrase each: name, what it was, what it is."""
    own = getattr(sys.modules.get(_COMPILER), "__file__", None)
    names = [*before, *(name for name in after if name not in before)]
    changed = [name for name in names if before.get(name) != after.get(name)]
    compilers = {name for name in changed if name.startswith(_HANDLING) and own and after.get(name) == own}
    return [_phrase(name, before.get(name), after.get(name)) for name in changed if name not in compilers]


def _phrase(name: str, before: Any, after: Any) -> str:
    if name.startswith("function "):
        return f"{name.removeprefix('function ')} (replaced)"
    if name.startswith("RNG "):
        return f"the state of the {name}"
    return f"{name} ({_short(before)} became {_short(after)})"


def _short(value: Any) -> str:
    text = "unset" if value is None else getattr(value, "__qualname__", None) or str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _signal_name(number: int) -> str:
    return signal.Signals(number).name if number in signal.Signals.__members__.values() else f"signal {number}"


def _functions() -> State:
    """Every function of the watched namespaces; held, so that an address is not used again."""
    kinds = (types.FunctionType, types.BuiltinFunctionType, types.MethodDescriptorType, type)
    return {
        f"function {space.__name__}.{name}": value
        for space in _WATCHED for name, value in vars(space).items() if isinstance(value, kinds)
    }


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _environment() -> dict[str, str]:
    """As C sees it, which what native code sets does not tell Python."""
    entries = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None), "environ")
    found = dict(os.environ)
    index = 0
    while entries and (entry := entries[index]) is not None:
        name, _, value = os.fsdecode(entry).partition("=")
        found[name] = value
        index += 1
    return found


def _dispositions() -> dict[str, str]:
    """What happens at a signal, as C sees it: ``default``, ``ignored``, or the file of what handles it. Those of a crash are left out."""
    function = ctypes.CDLL(None).sigaction
    found = {}
    for number in sorted(signal.valid_signals() - set(_CRASHES)):
        action = ctypes.create_string_buffer(256)
        if function(int(number), None, action):
            continue  # the C library's own
        handler = ctypes.c_void_p.from_buffer(action).value or _DEFAULT  # the first field of the structure on Linux
        found[_signal_name(number)] = {_DEFAULT: "default", _IGNORED: "ignored"}.get(handler) or _file_at(handler)
    return found


def _file_at(address: int) -> str:
    """Path of the file that is mapped at an address; empty if none is."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        low, high = (int(end, 16) for end in line.partition(" ")[0].split("-"))
        if low <= address < high:
            return "".join(line.partition("/")[1:])
    return ""


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _blanket_filters() -> list[str]:
    """Actions of warning filters that concern every warning of every module."""
    every = [entry for entry in warnings.filters if entry[1] is None and entry[2] in (Warning, UserWarning) and entry[3] is None]
    return [entry[0] for entry in every]


def _numpy_state() -> str:
    numpy = sys.modules.get("numpy")
    return _digest(repr(numpy.random.get_state()).encode()) if numpy else ""


_READERS: dict[str, Callable[[], Any]] = {
    "default dtype": torch.get_default_dtype,
    "default device": torch.get_default_device,
    "float32 matmul precision": torch.get_float32_matmul_precision,
    "deterministic algorithms": torch.are_deterministic_algorithms_enabled,
    "deterministic algorithms, warnings only": torch.is_deterministic_algorithms_warn_only_enabled,
    "grad mode": torch.is_grad_enabled,
    "inference mode": torch.is_inference_mode_enabled,
    "autocast": lambda: (torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")),
    "torch threads": torch.get_num_threads,
    "torch interop threads": torch.get_num_interop_threads,
    "RNG of torch (CPU)": lambda: _digest(torch.get_rng_state().numpy().tobytes()),
    "RNG of Python": lambda: _digest(repr(random.getstate()).encode()),
    "RNG of numpy": _numpy_state,
    "subnormal numbers": lambda: "kept" if sys.float_info.min * float("0.5") else "flushed to zero",
    "rounding mode": lambda: ctypes.CDLL(None).fegetround(),
    "working directory": lambda: str(Path.cwd()),
    "umask": _umask,
    "warnings for everything": _blanket_filters,
    "sys.path": lambda: list(sys.path),
    "recursion limit": sys.getrecursionlimit,
    "garbage collector": lambda: (gc.isenabled(), *gc.get_threshold()),
    "thread switch interval": sys.getswitchinterval,
    "trace and profile functions": lambda: (sys.gettrace(), sys.getprofile()),
    "blocked signals": lambda: sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    "interval timers": lambda: [timer for timer in _TIMERS if any(signal.getitimer(timer))],
    "priority": lambda: (os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)),
    "resource limits": lambda: {name: resource.getrlimit(getattr(resource, name)) for name in _LIMITS},
    "locale": lambda: locale.setlocale(locale.LC_ALL),
    "stdout": lambda: sys.stdout,
    "stderr": lambda: sys.stderr,
    "import hook": lambda: __builtins__["__import__"] if isinstance(__builtins__, dict) else __builtins__.__import__,
}
_CUDA_READERS: dict[str, Callable[[], Any]] = {
    "TF32 in matrix products": lambda: torch.backends.cuda.matmul.allow_tf32,
    "TF32 in convolutions": lambda: torch.backends.cudnn.allow_tf32,
    "fp16 reductions": lambda: torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction,
    "bf16 reductions": lambda: torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
    "cuDNN benchmark": lambda: torch.backends.cudnn.benchmark,
    "cuDNN deterministic": lambda: torch.backends.cudnn.deterministic,
    "RNG of torch (CUDA)": lambda: _digest(torch.cuda.get_rng_state().numpy().tobytes()),
    "current device": torch.cuda.current_device,
    "current stream": lambda: torch.cuda.current_stream().cuda_stream,
}
