"""The checks of the integrate gate on what grows: compilations over many sizes, memory over many calls."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from ..clock import now
from ..device import Arena
from ..sandbox.nvml import NvmlError, device_memory_by_process
from ..task import Role, Task
from ..types import Evidence
from .cases import Case
from .rig import STEP_SECONDS, Rig
from .slots import Slots
from .verify import first_failure

LEAST_SIZES = 6
"""With fewer sizes than these nothing tells bucketing from compiling for each."""
COMPARED = 2
ROUNDS = 8
ROUND_CALLS = 25
"""Eight rounds of 25 calls are 200."""
MOST_ROUNDS = 32
"""For what grows little but steadily: over 800 calls 8 KiB a call add up to more than allocators hold back."""
_SUSPICIOUS = 1 / 16
"""Share of a limit from which on steady growth is watched for longer."""
_MOST_BYTES = {"cpu": 1 << 27, "cuda": 1 << 30}
"""What all cases may take, roughly: where one is large, there are fewer."""
_BINARIES = (".cubin", ".so", ".o")
_ROUND_SECONDS = 0.25
LEAST_CALLS = 12
"""Calls of a round on a host so slow, or so busy, that all of them would take too long: what leaks a little must still add up."""
_LIMITS = {"resident": 2 << 20, "allocated": 1 << 20, "used": 16 << 20, "tasks": 16, "descriptors": 16}
"""By how many bytes, or numbers, the second half of the rounds may grow: allocators hand out blocks, and drivers pages of 2 MiB."""
_WORDS = {
    "resident": "memory of the process", "allocated": "device memory that torch has handed out", "used": "device memory in use",
    "tasks": "the number of its threads and processes", "descriptors": "the number of its open files",
}


class Finding(NamedTuple):
    """What a check saw: why it failed, who saw it, and what to note if it passed."""

    failure: str = ""
    evidence: Evidence = Evidence.JUDGED
    note: str = ""


class Sweep:
    """The submission on many unseen sizes, in the rig's worker, which forgets its other calls.

    Args:
        rig: Open.
    """

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        sizes: list[int | None] = [*rig.drill.sizes[1:]] or [None]
        self.cases = [self._draw(sizes[0], 0)]
        count = max(LEAST_SIZES + 2, _MOST_BYTES[rig.scope.kind] // max(_activation_bytes(rig.scope.task, self.cases[0]), 1))
        self.cases += [self._draw(size, place) for place, size in enumerate(sizes[1:count], 1)]
        self._last = Slots(rig.scope.task, self.cases, MOST_ROUNDS)
        self._arena: Arena | None = None
        self._call_seconds = 0.0

    def _draw(self, size: int | None, place: int) -> Case:
        return self._rig.drill.case(f"size {size}", size, oracle=place < COMPARED)

    def check_compilations(self) -> Finding:
        """`recompiles`: every size once; variants of one kernel, or of graphs, stay few.

        Kernels are counted by their files in the worker's scratch folder and, as reported, in the caches of its process.
        """
        count = len(self.cases)
        most = 4 + count // 4
        slots = self._place(0)
        before = self._compiled_files()
        start = now()
        told = self._rig.step("compiled", *range(count), seconds=2 * STEP_SECONDS)
        self._call_seconds = (now() - start) / count
        seen = self._compiled_files() - before
        for counts, evidence in ((seen, Evidence.JUDGED), (told, Evidence.REPORTED)):
            worst = max(counts, key=lambda name: counts[name], default="")
            if worst and counts[worst] > most:
                return Finding(f"{counts[worst]:.0f} compilations of {worst!r} for {count} batch sizes", evidence)
        for index in range(min(COMPARED, count)):
            if wrong := self._wrong(slots, index):
                return Finding(f"on a batch size that it had not met before it gave a wrong answer: {wrong}")
        highest = max([*seen.values(), *told.values()], default=0)
        return Finding(note=f"at most {highest:.0f} compilations of one kernel for {count} batch sizes")

    def _wrong(self, slots: Slots, index: int) -> str:
        """Why a call's outputs are not the oracle's, nor as near to it as a production implementation's."""
        assert self._arena
        case, scope, outputs = self.cases[index], self._rig.scope, slots.outputs(self._arena, index)
        if not first_failure(scope.task, case, outputs, {})[0]:
            return ""
        return first_failure(scope.task, case, outputs, scope.judge.baselines.errors(scope.task, case))[0]

    def check_memory(self) -> Finding:
        """`memory_growth`: the same sizes over and over, at new addresses in every round; memory reaches a plateau, as do threads and
        open files, which take memory of the system.
        """
        calls = ROUND_CALLS if not self._call_seconds else max(LEAST_CALLS, min(ROUND_CALLS, int(_ROUND_SECONDS / self._call_seconds)))
        order = [number % len(self.cases) for number in range(calls)]
        series: dict[str, list[float]] = {name: [] for name in _LIMITS}
        for number in range(1, MOST_ROUNDS + 1):
            self._round(number, order, series)
            if number % ROUNDS == 0 and not _is_undecided(series):
                break
        rounds = len(series["tasks"])
        for name, values in series.items():
            if grown := growth(values, _LIMITS[name]):
                evidence = Evidence.REPORTED if name == "allocated" else Evidence.JUDGED
                when = f"over the last {rounds // 2 * calls} of {rounds * calls} calls"
                much = f"{grown:.0f}" if name in ("tasks", "descriptors") else f"{grown / 2**20:.1f} MiB"
                return Finding(f"{_WORDS[name]} grew by {much} {when}", evidence)
        unseen = ", of the device's memory only what torch hands out: the driver does not tell it by process here"
        return Finding(note=f"a plateau over {rounds * calls} calls{unseen if math.isnan(series['used'][-1]) else ''}")

    def _round(self, number: int, order: Sequence[int], series: dict[str, list[float]]) -> None:
        """Run the calls of one round at addresses of its own, and note what they left."""
        self._place(number)
        told = self._rig.step("memory", *order, seconds=2 * STEP_SECONDS)
        series["allocated"].append(told.get("allocated", 0.0))
        series["resident"].append(self._resident())
        series["used"].append(self._device_memory() if number >= ROUNDS // 2 else math.nan)  # what was before counts for nothing
        series["tasks"].append(self._rig.session.tasks() if self._rig.session else 0)
        series["descriptors"].append(self._descriptors())

    def _place(self, shift: int) -> Slots:
        """Put every case in place, `shift` steps from where it was at first."""
        rig, task = self._rig, self._rig.scope.task
        assert rig.session
        slots = Slots(task, self.cases, shift)
        if self._arena is None:
            rig.session.detach()
            self._arena = rig.scope.judge.device.allocate(self._last.size, task.ranks)
            rig.session.attach(self._arena)
        for index, case in enumerate(self.cases):
            slots.write(self._arena, index, case, weights=index == 0)
        rig.session.bind(slots.calls)
        rig.session.setup(range(len(self.cases)), STEP_SECONDS)
        return slots

    def _compiled_files(self) -> Counter[str]:
        """Device binaries and shared libraries in the worker's scratch folder, by name: Triton names them after the kernel."""
        assert self._rig.session
        seen_by_worker = Path(f"/proc/{self._rig.session.members[0]}/root") / self._rig.session.scratch.relative_to("/")
        for folder in (seen_by_worker, self._rig.session.scratch):
            if not os.access(folder, os.R_OK | os.X_OK):
                continue  # it would look empty
            with contextlib.suppress(OSError):  # the submission may remove what is being listed
                files = [path for path in folder.rglob("*") if path.suffix in _BINARIES]
                return Counter(path.stem if path.suffix == ".cubin" else path.suffix for path in files)
        return Counter()

    def _resident(self) -> float:
        """Bytes of resident memory that are the worker's own, looked at from outside; 0 where that cannot be read."""
        assert self._rig.session
        return sum(map(_resident, self._rig.session.members))

    def _descriptors(self) -> float:
        """Number of the worker's open files, looked at from outside; 0 where that cannot be read."""
        assert self._rig.session
        return sum(map(_open_files, self._rig.session.members))

    def _device_memory(self) -> float:
        """Bytes of the device in use by others than this process; by the worker's processes where other judges use it too.

        NaN, which grows by nothing, where the driver does not tell by process.
        """
        if self._rig.scope.kind != "cuda":
            return 0.0
        if self._rig.scope.judge.turnstile.shared:
            with contextlib.suppress(NvmlError):
                held = device_memory_by_process()
                own = [held[pid] for pid in (self._rig.session.processes() if self._rig.session else []) if pid in held]
                return float(sum(own)) if own else math.nan
            return math.nan
        free, total = torch.cuda.mem_get_info()
        return float(total - free - torch.cuda.memory_reserved())

    def close(self) -> None:
        """Free memory. Idempotent."""
        if self._arena is not None:
            self._arena.close()
            self._arena = None


def _resident(pid: int) -> float:
    with contextlib.suppress(OSError, ValueError, IndexError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return 1024.0 * int(next(line for line in lines if line.startswith("RssAnon:")).split()[1])
    return 0.0


def _open_files(pid: int) -> float:
    with contextlib.suppress(OSError):
        return float(len(os.listdir(f"/proc/{pid}/fd")))
    return 0.0


def _activation_bytes(task: Task, case: Case) -> int:
    weights = {arg.name for arg in task.signature if arg.role is Role.WEIGHT}
    return sum(value.nbytes for name, value in case.args.items() if isinstance(value, torch.Tensor) and name not in weights)


def _is_undecided(series: dict[str, list[float]]) -> bool:
    """Whether something grew steadily, and everything by too little to say so."""
    if any(growth(values, _LIMITS[name]) for name, values in series.items()):
        return False
    return any(growth(values, _LIMITS[name] * _SUSPICIOUS) for name, values in series.items())


def growth(values: Sequence[float], limit: float) -> float:
    """By how much the second half of a series grew, if it did so steadily and by more than `limit`; else 0."""
    half = values[len(values) // 2 - 1 :]
    steps = [after - before for before, after in itertools.pairwise(half)]
    grown = half[-1] - half[0]
    return grown if grown > limit and sum(step > 0 for step in steps) >= 3 * len(steps) / 4 else 0.0
