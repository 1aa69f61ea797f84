"""What this machine can and cannot judge, and why. Every probe stands alone: one that fails says so, and the others go on."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from .cache import HostCache, HostRecord
    from .types import DeviceInfo

Row = dict[str, Any]
_COMPILER_PROBE = "#include <omp.h>\n#include <cstdint>\nint main() { return omp_get_max_threads() < 1; }\n"
_SECONDS = 30
_STYLES = {
    "yes": "green", "active": "green", "runs": "green", "used": "green", "installed": "green", "found": "green", "warmed": "green",
    "checked, not timed": "yellow", "compiled, not run": "yellow", "missing": "yellow", "not warmed": "yellow",
    "no": "red", "failed": "red", "broken": "bold red",
}


def examine() -> dict[str, Any]:
    """Probe the machine; never raises for what it finds.

    Returns:
        Plain data. ``devices``, ``tools``, ``languages``, ``baselines``, ``containment``, ``checks`` and ``packages`` are lists of
        objects with a ``name``, a ``status`` and the reason for it, ``detail``; where it matters also ``device``. ``versions`` maps
        packages to versions. ``can_time`` says whether there is a language that this machine can time.
    """
    kinds = ["cpu", "cuda"] if _cuda_answers() else ["cpu"]
    tools = {name: _tool(probe) for name, probe in _TOOLS.items()}
    languages = [row for kind in ("cpu", "cuda") for row in _languages(kind, kind in kinds, tools)]
    return {
        "devices": [row for kind in kinds for row in _rows(_device, kind)],
        "tools": [{"name": name, **tool} for name, tool in tools.items()],
        "languages": languages,
        "baselines": [row for kind in kinds for row in _rows(_baselines, kind)],
        "containment": _rows(_containment),
        "checks": [row for kind in kinds for row in _rows(_checks, kind)],
        "packages": _rows(_packages),
        "versions": _versions(),
        "can_time": any(row["status"] == "yes" for row in languages),
    }


def _rows(section: Callable[..., list[Row]], *kind: str) -> list[Row]:
    """The rows of a section, or one that says why it cannot be examined."""
    try:
        return section(*kind)
    except Exception as error:
        where = {"device": kind[0]} if kind else {}
        return [{**where, "name": section.__name__.strip("_"), "status": "broken", "detail": _describe(error)}]


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]


# -- tools ---------------------------------------------------------------------------------------------------------------------


def _tool(probe: Callable[[], str]) -> Row:
    try:
        return {"status": "found", "detail": probe()}
    except LookupError as error:
        return {"status": "missing", "detail": str(error.args[0])}
    except Exception as error:
        return {"status": "broken", "detail": _describe(error)}


def _output(*command: str, text: str | None = None) -> str:
    """What a command prints; raises with its complaint if it fails."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=_SECONDS, errors="replace")
    if done.returncode:
        raise RuntimeError((done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()[0])
    return done.stdout.strip()


def _compiler() -> str:
    name = os.environ.get("CXX", "c++")
    path = shutil.which(name)
    if path is None:
        raise LookupError(f"there is no {name!r} on PATH; install a C++17 compiler with OpenMP, such as g++")
    _output(path, "-std=c++17", "-fopenmp", "-fsyntax-only", "-x", "c++", "-", text=_COMPILER_PROBE)
    return _output(path, "--version").partition("\n")[0]


def _ninja() -> str:
    path = shutil.which("ninja")
    if path is None and importlib.util.find_spec("ninja") is not None:
        path = shutil.which("ninja", path=str(importlib.import_module("ninja").BIN_DIR))
    if path is None:
        raise LookupError("there is no 'ninja' on PATH; install the package ninja")
    return f"ninja {_output(path, '--version')}"


def _nvcc() -> str:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    path = shutil.which("nvcc") or shutil.which("nvcc", path=os.path.join(home, "bin"))
    if path is None:
        raise LookupError("there is no 'nvcc' on PATH or in CUDA_HOME")
    return next((line for line in _output(path, "--version").splitlines() if "release" in line), path)


def _driver() -> str:
    if shutil.which("nvidia-smi") is None:
        raise LookupError("there is no 'nvidia-smi' on PATH, so no NVIDIA driver")
    if not _cuda_answers():
        raise LookupError("nvidia-smi lists no GPU")
    return "driver " + _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").partition("\n")[0]


def _package(module: str, package: str) -> Callable[[], str]:
    def probe() -> str:
        if importlib.util.find_spec(module) is None:
            raise LookupError(f"the package {package!r} is not installed")
        return f"{package} {importlib.import_module('importlib.metadata').version(package)}"

    return probe


_TOOLS: Mapping[str, Callable[[], str]] = {
    "C++ compiler": _compiler,
    "ninja": _ninja,
    "tvm-ffi": _package("tvm_ffi", "apache-tvm-ffi"),
    "torch": _package("torch", "torch"),
    "triton": _package("triton", "triton"),
    "nvcc": _nvcc,
    "CUDA driver": _driver,
}


def _packages() -> list[Row]:
    """Ray is really imported: a broken installation shows only then."""
    try:
        version = str(importlib.import_module("ray").__version__)
        return [{"name": "ray", "status": "installed", "detail": f"{version}: rollouts over several machines"}]
    except ModuleNotFoundError as error:
        status, reason = ("not installed", "") if error.name == "ray" else ("broken", f"{error}; ")
        return [{"name": "ray", "status": status, "detail": f"{reason}one machine works without it"}]


def _versions() -> dict[str, str]:
    from .versions import versions

    return {**versions(), "platform": platform.platform(), "executable": sys.executable}


# -- devices -------------------------------------------------------------------------------------------------------------------


def _cuda_answers() -> bool:
    from .device import cuda_present

    return cuda_present()


@functools.cache
def _opened(kind: str) -> tuple[DeviceInfo, HostCache, HostRecord | None]:
    from .cache import HostCache
    from .device import open_device
    from .versions import versions

    info = open_device(kind).info()
    cache = HostCache(info, versions())
    return info, cache, cache.load()


def _device(kind: str) -> list[Row]:
    """Facts about a device, and whether `warm` has prepared it."""
    info, cache, record = _opened(kind)
    warmed = sorted(record.warmed) if record else []
    hint = "run `fastkernels-env warm` once, or the first evaluations will wait for baselines to be built"
    return [{
        "device": kind, "name": info.name, "uuid": info.uuid, "cores": info.cores, "memory_bytes": info.memory_bytes,
        "cache_bytes": info.cache_bytes, "clocks": info.clocks,
        "copy_bytes_per_s": record.peaks.copy_bytes_per_s if record else None,
        "flops_per_s": record.peaks.flops_per_s if record else {},
        "host_cache": str(cache.folder), "warmed": warmed,
        "status": "warmed" if warmed else "not warmed", "detail": f"{len(warmed)} tasks" if warmed else hint,
    }]


def _languages(kind: str, present: bool, tools: Mapping[str, Row]) -> list[Row]:
    """What becomes of each language on a device, and why."""
    def lacking(*needed: str) -> str:
        return "; ".join(tools[name]["detail"] for name in needed if tools[name]["status"] != "found")

    def row(language: str, problem: str, status: str, detail: str) -> Row:
        return {"device": kind, "name": language, "status": "no" if problem else status, "detail": problem or detail}

    gpu = "" if present else tools["CUDA driver"]["detail"] or "no GPU answers"
    native = ("C++ compiler", "ninja", "tvm-ffi", "torch")
    full, calls = "built, verified and timed", "torch and other libraries: verified and timed"
    if kind == "cuda":
        return [
            row("Triton", gpu or lacking("torch", "triton"), "yes", full),
            row("CUDA C++", gpu or lacking("nvcc", *native), "yes", full),
            row("Python", gpu or lacking("torch"), "yes", calls),
        ]
    interpreted, compiled = "run through its interpreter, compiled ahead for sm_90", "rejected, with the compiler's verdict"
    return [
        row("C++", lacking(*native), "yes", full),
        row("Triton", lacking("torch", "triton"), "checked, not timed", interpreted),
        row("CUDA C++", lacking("nvcc", *native), "compiled, not run", compiled),
        row("Python", lacking("torch"), "yes", calls),
    ]


def _baselines(kind: str) -> list[Row]:
    from .registry import load_task, task_folders
    from .task import Baseline, TaskError

    record = _opened(kind)[2]

    def row(task: str, baseline: Baseline) -> Row:
        missing = bool(baseline.requires) and importlib.util.find_spec(str(baseline.requires)) is None
        status = "not installed" if missing else (record.warmed.get(task, {}) if record else {}).get(baseline.name, "installed")
        detail = f"needs the package {baseline.requires!r}" if missing else ""
        return {"device": kind, "task": task, "name": baseline.name, "status": status, "detail": detail}

    rows = []
    for name in task_folders():
        try:
            rows += [row(name, baseline) for baseline in load_task(name).baselines if kind in baseline.devices]
        except TaskError as error:
            rows.append({"device": kind, "task": name, "name": "", "status": "broken", "detail": str(error)})
    return rows


def _containment() -> list[Row]:
    """Every layer, tried out on a process that does nothing."""
    from .build import probe_containment
    from .sandbox.layers import LAYERS, merge

    missing = merge([probe_containment()]).missing
    return [{"name": layer, "status": "missing" if layer in missing else "active", "detail": missing.get(layer, "")} for layer in LAYERS]


def _checks(kind: str) -> list[Row]:
    from .checks import CHECKS

    rows = []
    for spec in CHECKS:
        why = spec.missing or ("" if kind in spec.devices else f"not required on {kind}")
        status = "not_run" if why else "advisory" if spec.advisory else "runs"
        rows.append({"device": kind, "name": spec.name, "stage": spec.stage.value, "status": status, "detail": why or spec.about})
    return rows


# -- for people ----------------------------------------------------------------------------------------------------------------


def render(report: Mapping[str, Any]) -> RenderableType:
    """The report of `examine`, made for 100 columns."""
    parts: list[RenderableType] = []
    for title, rows in (
        ("Devices", [_device_row(row) for row in report["devices"]]),
        ("Tools", report["tools"]),
        ("Languages", _grouped(report["languages"])),
        ("Baselines", _grouped(report["baselines"], "task")),
        ("Containment", _grouped(report["containment"])),
        ("Checks", _grouped(report["checks"])),
        ("Packages", report["packages"]),
    ):
        parts += [Text(title, "bold"), _table(rows), Text()]
    parts.append(Text.assemble(("Versions", "bold"), "  ", ", ".join(f"{k} {v}" for k, v in report["versions"].items())))
    verdict = "can" if report["can_time"] else "cannot"
    parts += [Text(), Text(f"This machine {verdict} judge and time kernels.", "bold green" if report["can_time"] else "bold red")]
    return Group(*parts)


def _device_row(row: Row) -> Row:
    if "cores" not in row:
        return row
    unit = "SMs" if row["device"] == "cuda" else "cores"
    facts = [f"{row['cores']} {unit}", f"{row['memory_bytes'] / 2**30:.0f} GiB", f"cache {row['cache_bytes'] / 2**20:.0f} MiB"]
    if row["copy_bytes_per_s"]:
        facts.append(f"copies {row['copy_bytes_per_s'] / 1e9:,.0f} GB/s")
        facts += [f"{dtype} {rate / 1e9:,.0f} GFLOP/s" for dtype, rate in row["flops_per_s"].items()]
    return {**row, "detail": f"{', '.join(facts)}; {row['detail']}"}


def _grouped(rows: Iterable[Row], by: str = "") -> list[Row]:
    """Rows with the same device, status and reason (and task) as one row, their names in a list."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        detail = "" if row["status"] == "runs" else row["detail"]
        groups.setdefault((row.get("device", ""), row.get(by, ""), row["status"], detail), []).append(row["name"])
    return [
        {"device": device, "name": f"{key}: {', '.join(names)}" if key else ", ".join(names), "status": status, "detail": detail}
        for (device, key, status, detail), names in groups.items()
    ]


def _table(rows: Iterable[Row]) -> Table:
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(width=4)
    table.add_column(ratio=1, overflow="fold")
    table.add_column(width=18)
    table.add_column(ratio=1, overflow="fold")
    for row in rows:
        status = row["status"]
        table.add_row(
            Text(row.get("device", ""), "dim"), Text(row["name"]), Text(status.replace("_", " "), _STYLES.get(status, "dim")),
            Text(row["detail"], "dim"),
        )
    return table
