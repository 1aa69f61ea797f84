"""Probes: a small case, run among other calls.

The first call is the case itself. Then follow, in a secret order: another case of other size, the first case twice more at other
addresses, and the first case with small changes; the last call is the other case again. Then one of the changes is made where the first
call's inputs lie and that call runs again, as every step of a server does in the buffers of the step before; and once more after the
weights were replaced where they lie, as a server does whose model is updated. From this follows whether outputs survive later calls
(`aliasing`), whether equal inputs give equal outputs (`determinism`), and whether every input counts (`perturbation`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import torch

from ..device import Arena, Device
from ..task import Role, Task, Workload, shape_of
from ..types import Regime
from .canaries import fill_slots, touched
from .cases import Case, derive_seed, make_case
from .compare import FAR_RMS, compare
from .errors import JudgeFault
from .layout import Layout, plan_calls, view_of
from .perturb import Change, draw_changes, missing_movement, visible
from .verify import compare_output, first_failure, gate_of, recycle_, same_bytes, write_slot

if TYPE_CHECKING:
    from .session import WorkerSession

REPEATS = 2
"""Besides the first call."""
MOST_TOKENS = 16
FEW_TOKENS = 4
"""Batches of probes at most, and where kernels are interpreted."""
Limits = Callable[[Case], Mapping[str, float]]
"""Relative RMS error of the best baseline on a case, by output; measured when it is asked for."""


class Findings(NamedTuple):
    """What a probe showed. Empty strings mean nothing is wrong.

    Attributes:
        wrong: Why the first case, or the one of other size, is wrong: the rest then means nothing.
        aliasing: What happened to an earlier call's outputs.
        determinism: How repeats differ.
        perturbation: What does not follow a change.
        canary: Where bytes outside every buffer changed.
        mutated: Which read-only argument changed.
        changes: What was changed.
    """

    wrong: str
    aliasing: str
    determinism: str
    perturbation: str
    canary: str
    mutated: str
    changes: tuple[str, ...]


class Probe:
    """Calls of one probe, drawn and kept by the judge.

    Args:
        task: The task.
        base: A public workload that gives all sizes but the batch.
        seed: Decides everything.
        device: Torch device.
        kind: Device kind.
        most: Largest batch.

    Raises:
        JudgeFault: The task's generator, oracle or one of its hooks raises.

    Attributes:
        layout: Where the buffers of all calls lie.
    """

    def __init__(self, task: Task, base: Workload, seed: int, device: str, kind: str, most: int = MOST_TOKENS) -> None:
        self.task, self._seed = task, seed
        rng = random.Random(seed)
        weights: list[torch.Tensor] = []
        sizes = small_batches(task, base, kind, rng, most)
        first, self.other = (
            make_case(task, _with_batch(task, base, size, index), Regime.REALISTIC, derive_seed(seed, index), device, weights=weights)
            for index, size in enumerate(sizes)
        )
        self.first = first
        try:
            self.changes = draw_changes(task, first, rng)
            self.updated = self._update(device)
            self.in_place = self._in_place(rng)
        except Exception as error:
            where = f"{first.describe()}, when its inputs are changed"
            raise JudgeFault(f"task {task.folder.name!r} is broken on {where}: {type(error).__name__}: {error}") from error
        repeats = [first._replace(args={**first.args, **_copied_weights(task, first)}), *[first] * (REPEATS - 1)]
        self._cases = [first, self.other, *repeats, *(change.case for change in self.changes), self.other]
        last = len(self._cases) - 1
        self._order = [0, *rng.sample(range(1, last), last - 1), last]
        self.layout: Layout = plan_calls(task, [(case.workload, case.args) for case in self._cases], seed, share_weights=True)

    def _update(self, device: str) -> list[Change]:
        """The first case with other weights, where they can be seen in the oracle."""
        case, seed = self.first, derive_seed(self._seed, "updated weights")
        drawn = make_case(self.task, case.workload, case.regime, seed, device, oracle=False)
        weights = {arg.name: drawn.args[arg.name] for arg in self.task.signature if arg.role is Role.WEIGHT}
        return visible(self.task, case, "the weights where they lie", {**case.args, **weights}) if weights else []

    def _in_place(self, rng: random.Random) -> list[Change]:
        """A change of one input, which the next call in the same buffers must see: nothing is prepared or planned in between."""
        constant = [arg.name for arg in self.task.signature if arg.role in (Role.WEIGHT, Role.METADATA)]
        found = [c for c in self.changes if all(c.case.args.get(name) is self.first.args.get(name) for name in constant)]
        return [change._replace(label=f"{change.label} where it lies") for change in rng.sample(found, min(len(found), 1))]

    def run(self, session: WorkerSession, arena: Arena, device: Device, seconds: float, limits: Limits) -> Findings:
        """Run all calls and judge them.

        Args:
            session: A worker with the artefact loaded and the arena attached as number 0.
            arena: Memory of at least ``layout.size`` bytes.
            device: The judge's device.
            seconds: Deadline for the calls.
            limits: Asked where a case would fail without it.

        Raises:
            WorkerError: The submission raised, died or hung.
        """
        memory, slots = arena.view[..., : self.layout.size], self.layout.slots
        fill_slots(memory, self.layout, self._seed)
        for number, (case, slot) in enumerate(zip(self._cases, slots, strict=True)):
            write_slot(memory, self.task, slot, case.args, number % 2, self.task.unused(case.args))
        for arg in self.task.outputs:
            if arg.role is Role.OUTPUT:  # of the last call: who works only where a poison lies does not here
                recycle_(view_of(memory, slots[-1].refs[arg.name]), derive_seed(self._seed, "recycled", arg.name))
        image = memory.clone()
        device.synchronize()
        session.bind([slot.arguments for slot in slots])
        session.setup(self._order, seconds)
        session.run(self._order[:1], seconds)
        early = memory[..., : slots[0].end].clone()
        session.run(self._order[1:], seconds)
        private = memory.clone()
        before, outputs = self._outputs(early, 1)[0], self._outputs(private, len(slots))
        found = self._judge(before, outputs, limits, *touched(self.task, self.layout, private, image))
        for change, again in (*((c, self._run_in_place) for c in self.in_place), *((c, self._run_updated) for c in self.updated)):
            if not (found.wrong or found.perturbation):
                again(change, session, memory, device, seconds)
                problem = self._unmoved(change, self._outputs(memory.clone(), 1)[0], limits)
                found = found._replace(perturbation=problem, changes=(*found.changes, change.label))
        return found

    def _run_in_place(self, change: Change, session: WorkerSession, memory: torch.Tensor, device: Device, seconds: float) -> None:
        """Change the first call's inputs and run it again over its own answer: a poison would tell that the call is a new one."""
        slot = self.layout.slots[0]
        answers = {arg.name: view_of(memory, slot.refs[arg.name]).clone() for arg in self.task.outputs if arg.role is Role.OUTPUT}
        write_slot(memory, self.task, slot, change.case.args, 0, self.task.unused(change.case.args))
        for name, answer in answers.items():
            view_of(memory, slot.refs[name]).copy_(answer)
        device.synchronize()
        session.run([0], seconds)

    def _run_updated(self, change: Change, session: WorkerSession, memory: torch.Tensor, device: Device, seconds: float) -> None:
        """Replace the weights of the first call and run it again."""
        write_slot(memory, self.task, self.layout.slots[0], change.case.args, 0, self.task.unused(change.case.args))
        device.synchronize()
        session.setup([0], seconds)
        session.run([0], seconds)

    def _outputs(self, memory: torch.Tensor, count: int) -> list[dict[str, torch.Tensor]]:
        return [{arg.name: view_of(memory, slot.refs[arg.name]) for arg in self.task.outputs} for slot in self.layout.slots[:count]]

    def _judge(
        self, before: dict[str, torch.Tensor], outputs: list[dict[str, torch.Tensor]], limits: Limits, canary: str, mutated: str
    ) -> Findings:
        changed = [name for name, value in before.items() if value.numel() and not same_bytes(value, outputs[0][name])]
        aliasing = f"{changed[0]} of a call changed while later calls ran on other buffers" if changed else ""
        first = self._wrong(self.first, before, limits)
        wrong = first or self._wrong(self.other, outputs[1], limits)
        if not wrong and (again := self._wrong(self.other, outputs[-1], limits)):
            wrong = f"called again, where its outputs held values like any other's before: {again}"
        determinism = perturbation = ""
        if not first:
            determinism = next(filter(None, (self._spread(before, again, limits) for again in outputs[2 : 2 + REPEATS])), "")
            pairs = zip(self.changes, outputs[2 + REPEATS : -1], strict=True)
            perturbation = next(filter(None, (self._unmoved(change, found, limits) for change, found in pairs)), "")
        labels = tuple(change.label for change in self.changes)
        return Findings(wrong, aliasing, determinism, perturbation, canary, mutated, labels)

    def _wrong(self, case: Case, outputs: dict[str, torch.Tensor], limits: Limits) -> str:
        wrong, rms = first_failure(self.task, case, outputs, {})
        return first_failure(self.task, case, outputs, limits(case))[0] if wrong and rms < FAR_RMS else wrong

    def _spread(self, first: dict[str, torch.Tensor], again: dict[str, torch.Tensor], limits: Limits) -> str:
        """How a repeat differs from the first run: by any bit where the task promises equality, else beyond the rounding limit."""
        for arg in self.task.outputs:
            one, other = first[arg.name], again[arg.name]
            if not one.numel() or same_bytes(one, other):
                continue
            where = f"on equal inputs {arg.name} differs from run to run"
            if self.task.deterministic:
                return f"{where}, and the task promises equal bits"
            if arg.ties or arg.name in self.task.measures or not one.is_floating_point():
                continue  # judged against the oracle where it was first given
            limit = compare_output(self.task, self.first, arg.name, one).limit
            if compare(other, one.double(), gate_of(self.task, self.first, arg), limit).ok:
                continue
            limit = compare_output(self.task, self.first, arg.name, one, limits(self.first).get(arg.name, 0.0)).limit
            spread = compare(other, one.double(), gate_of(self.task, self.first, arg), limit)
            if not spread.ok:
                return f"{where}: {spread.describe()} on {self.first.describe()}"
        return ""

    def _unmoved(self, change: Change, outputs: dict[str, torch.Tensor], limits: Limits) -> str:
        lacks = missing_movement(self.task, change, outputs)
        if lacks:
            return f"{lacks} on {change.case.describe()}"
        wrong = self._wrong(change.case, outputs, limits)
        return f"wrong after a change of {change.label}: {wrong}" if wrong else ""


def _copied_weights(task: Task, case: Case) -> dict[str, torch.Tensor]:
    """Weights at an address of their own."""
    values = {arg.name: case.args[arg.name] for arg in task.signature if arg.role is Role.WEIGHT}
    return {name: value.clone() for name, value in values.items() if isinstance(value, torch.Tensor)}


def _with_batch(task: Task, base: Workload, batch: int, index: int) -> Workload:
    return msgspec.structs.replace(base, name=f"probe-{index + 1}", sizes={**base.sizes, task.batch: batch}, count=0, smoke=False)


def small_batches(task: Task, base: Workload, kind: str, rng: random.Random, most: int = MOST_TOKENS) -> tuple[int, int]:
    """Two small and different batch sizes."""
    low, high = task.ragged[kind].get(task.batch, (base.sizes[task.batch],) * 2)
    low, high = max(low, min(2, high)), max(low, min(high, most))
    sizes = rng.sample(range(low, high + 1), 2) if high > low else [low, low]
    return sizes[0], sizes[1]


def probe_bases(task: Task, workloads: list[Workload], count: int) -> list[Workload]:
    """The public workloads with the least data per token or in weights, of different dtypes as far as there are any."""

    def elements(workload: Workload) -> int:
        sizes = task.complete({**workload.sizes, task.batch: MOST_TOKENS})
        return sum(math.prod(shape_of(arg, sizes)) for arg in task.signature)

    ordered = sorted(workloads, key=elements)
    dtypes = list(dict.fromkeys(workload.dtype for workload in ordered))
    found = [next(w for w in ordered if w.dtype == dtype) for dtype in dtypes]
    return (found + [w for w in ordered if w not in found])[:count]
