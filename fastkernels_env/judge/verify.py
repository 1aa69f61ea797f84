"""Run a worker on verification cases and compare every byte that it could have touched.

Each case is run twice in one request, on the same inputs, in two places. Outputs are poisoned once with NaN bits and once with 2^100; so
are input elements without meaning, and so are the canaries around the buffers. The judge copies the whole arena into private memory
before it looks at it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch

from .._passes import words
from ..agreement import MOST
from ..device import Arena, Device
from ..task import Arg, Gate, Role, Task, dtype_of
from .canaries import fill_slots, touched
from .cases import Case
from .compare import Comparison, Pending, all_close, begin, compare, settle
from .layout import Layout, Slot, plan_layout, view_of
from .ties import all_tied, compare_ids

if TYPE_CHECKING:
    from ..task import Value
    from .session import WorkerSession

POISONS = (float("nan"), 2.0**100)
INTEGER_POISONS = (0x5A5A5A5A, -0x5A5A5A5B)
SMALL_INTEGER_POISONS = (0x5A, 0x25)
_NARROW_POISONS = {torch.float16: 2.0**15, torch.float8_e4m3fn: 448.0}
"""In place of 2^100 where a dtype does not hold it."""


class CaseResult(NamedTuple):
    """What one case showed. Empty strings mean nothing is wrong.

    Attributes:
        case: What was run.
        wrong: Why the outputs are not the oracle's.
        poison: Set if only one of the two poisons gave a right answer.
        canary: Where bytes outside every buffer changed.
        mutated: Which read-only argument changed.
        rms: Largest relative RMS error over the outputs.
        replayed: Whether a wrong output is bit for bit an earlier, different case's answer.
    """

    case: Case
    wrong: str
    poison: str
    canary: str
    mutated: str
    rms: float
    replayed: bool = False

    @property
    def right(self) -> bool:
        """Whether outputs are right and nothing else was touched."""
        return not (self.wrong or self.poison or self.canary or self.mutated)


def poison_(view: torch.Tensor, which: int) -> torch.Tensor:
    """Fill an output with one of the two poisons; returns it."""
    if view.is_floating_point():
        return view.fill_(_NARROW_POISONS.get(view.dtype, POISONS[which]) if which else POISONS[which])
    return view.fill_((INTEGER_POISONS if view.dtype.itemsize >= 4 else SMALL_INTEGER_POISONS)[which])


def poison_slots_(view: torch.Tensor, which: int) -> None:
    """Fill one output of many slots (``[slots, ...]``) with one of the two poisons, as fast as memory is written."""
    wide = words(view) if view.dim() else None
    if wide is None:
        poison_(view, which)
    else:
        wide.fill_(_poison_word(view.dtype, which))


@functools.cache
def _poison_word(dtype: torch.dtype, which: int) -> int:
    """Eight bytes of a poison."""
    return int(poison_(torch.empty(8 // dtype.itemsize, dtype=dtype), which).view(torch.int64))


def recycle_(view: torch.Tensor, seed: int) -> torch.Tensor:
    """Fill an output with values like any other's, as memory holds that was used before; returns it."""
    generator = torch.Generator(view.device).manual_seed(seed)
    if view.is_floating_point():
        return view.copy_(torch.randn(view.shape, generator=generator, device=view.device))
    return view.copy_(torch.randint(100, view.shape, generator=generator, device=view.device))


def is_poison(view: torch.Tensor) -> bool:
    """Whether an output holds one of the two poisons and nothing else."""
    blanks = (poison_(torch.empty_like(view), which) for which in (0, 1))
    return any(same_bytes(view, blank) for blank in blanks)


def case_layout(task: Task, case: Case, shifted: bool = False) -> Layout:
    """Two calls on the same inputs, one per poison; `shifted`: at offsets that the case's seed decides."""
    return plan_layout(task, case.workload, [case.args, case.args], case.seed if shifted else None)


def run_case(session: WorkerSession, arena: Arena, device: Device, task: Task, case: Case, seconds: float) -> dict[str, list[torch.Tensor]]:
    """Run one case as it is drawn and return the judge's private copies of the outputs, by name, one per poison."""
    return _run(session, arena, device, task, case, case_layout(task, case), seconds).outputs


class Observation(NamedTuple):
    """What a case left behind.

    Attributes:
        outputs: The judge's private copies, by name, one per poison.
        canary: Where bytes outside every buffer changed.
        mutated: Which read-only argument changed.
    """

    outputs: dict[str, list[torch.Tensor]]
    canary: str
    mutated: str


def observe_case(session: WorkerSession, arena: Arena, device: Device, task: Task, case: Case, seconds: float) -> Observation:
    """Run one case with shifted buffers, and with garbage in what has no meaning.

    Args:
        session: A worker with the artefact loaded and the arena attached as number 0.
        arena: Memory of at least ``case_layout(task, case).size`` bytes.
        device: The judge's device.
        task: The task.
        case: Inputs and oracle.
        seconds: Deadline for the calls.

    Raises:
        WorkerError: The submission raised, died or hung.
    """
    return _run(session, arena, device, task, case, case_layout(task, case, shifted=True), seconds, task.unused(case.args))


def judge_case(
    task: Task, case: Case, seen: Observation, limits: Mapping[str, float] | None = None, earlier: Mapping[str, torch.Tensor] | None = None
) -> CaseResult:
    """Compare what a case left behind with what it should have.

    Args:
        task: The task.
        case: Inputs and oracle.
        seen: What came of it.
        limits: Relative RMS error of a production implementation by output, where the caller has measured it.
        earlier: Right outputs of another case, by name: giving them again is no honest mistake.
    """
    outputs = seen.outputs
    failures = [first_failure(task, case, {name: copies[which] for name, copies in outputs.items()}, limits or {}) for which in (0, 1)]
    wrong = failures[0][0] or failures[1][0]
    one_sided = bool(failures[0][0]) != bool(failures[1][0])
    poison = "the answer depends on what the output buffer held before the call, or on memory that holds no input" if one_sided else ""
    replayed = bool(wrong) and any(same_bytes(outputs[name][0], answer) for name, answer in (earlier or {}).items())
    return CaseResult(case, wrong, poison, seen.canary, seen.mutated, max(failures[0][1], failures[1][1]), replayed)


def verify_case(session: WorkerSession, arena: Arena, device: Device, task: Task, case: Case, seconds: float) -> CaseResult:
    """Run one case and judge it; see `observe_case` and `judge_case`."""
    return judge_case(task, case, observe_case(session, arena, device, task, case, seconds))


def same_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two outputs of one shape hold the same bytes (and any at all)."""
    if a.shape != b.shape or a.dtype != b.dtype or not a.numel():
        return False
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


def smoke_case(session: WorkerSession, arena: Arena, device: Device, task: Task, case: Case, seconds: float) -> str:
    """The loose check of common benchmarks; why it failed, or an empty string."""
    return smoke_failure(task, case, run_case(session, arena, device, task, case, seconds))


def smoke_failure(task: Task, case: Case, outputs: dict[str, list[torch.Tensor]]) -> str:
    """Why outputs fail the loose check, or an empty string."""
    for arg in task.outputs:
        actual, expected = outputs[arg.name][0], case.expected[arg.name]
        if arg.name in task.measures:
            own = task.agreement(arg.name, actual, case.expected, MOST / 2)
            if not own.ok:
                return f"{arg.name}: {own.told} on {case.describe()}"
            continue
        if arg.ties:
            gate = task.numerics.smoke[case.workload.dtype]
            close = all_tied(actual, case.expected[arg.ties], gate)
        else:
            gate = task.numerics.smoke[dtype_of(arg, case.workload)] if actual.is_floating_point() else Gate(0, 0)
            close = all_close(actual, expected, gate)
        if not close:
            result = compare_output(task, case, arg.name, actual) if arg.ties else compare(actual, expected, gate, 1.0)
            return f"{arg.name}: {result.describe()} at atol=rtol={gate.rtol:g} on {case.describe()}"
    return ""


def gate_of(task: Task, case: Case, arg: Arg) -> Gate:
    """Per-element tolerance of an output; of a list of indices, that of the scores."""
    dtype = case.workload.dtype if arg.ties else dtype_of(arg, case.workload)
    return task.numerics.outputs.get(arg.plain) or task.numerics.gates.get(dtype, Gate(0.0, 0.0))


def compare_output(task: Task, case: Case, name: str, actual: torch.Tensor, baseline_rms: float = 0.0) -> Comparison:
    """Compare one output of a case under the task's numerics."""
    return settle([begin_output(task, case, name, actual, baseline_rms)])[0]


def begin_output(task: Task, case: Case, name: str, actual: torch.Tensor, baseline_rms: float = 0.0) -> Pending:
    """As `compare_output`, without waiting for the result."""
    if name in task.measures:
        return Pending.done(Comparison.of(task.agreement(name, actual, case.expected, baseline_rms)))
    arg = next(arg for arg in task.outputs if arg.name == name)
    gate = gate_of(task, case, arg)
    if arg.ties:
        return Pending.done(compare_ids(actual, case.expected[arg.ties], gate))
    floor = task.numerics.rms_floor.get(dtype_of(arg, case.workload), 0.0)
    return begin(actual, case.expected[name], gate, floor, baseline_rms, task.groups(case.args).get(name), task.numerics.roundings)


def first_failure(task: Task, case: Case, outputs: Mapping[str, torch.Tensor], limits: Mapping[str, float]) -> tuple[str, float]:
    """Why the outputs of one call are wrong, or an empty string, and their largest relative RMS error up to there."""
    worst = 0.0
    for name, actual in outputs.items():
        result = compare_output(task, case, name, actual, limits.get(name, 0.0))
        worst = max(worst, result.distance)
        if not result.ok:
            return f"{name}: {result.describe()} on {case.describe()}", worst
    return "", worst


def write_slot(
    memory: torch.Tensor, task: Task, slot: Slot, args: Mapping[str, Value], which: int, unused: Mapping[str, torch.Tensor]
) -> None:
    """Put the arguments of one call in place: outputs poisoned, and `unused` elements (but of weights) too."""
    for arg in task.signature:
        if arg.role is Role.SCALAR:
            continue
        view = view_of(memory, slot.refs[arg.name])
        if arg.role is Role.OUTPUT:
            poison_(view, which)
            continue
        value = args[arg.name]
        assert isinstance(value, torch.Tensor)
        view.copy_(value)
        if arg.name in unused and arg.role is not Role.WEIGHT:
            garbage = poison_(torch.empty((), dtype=view.dtype, device=view.device), which)
            view.masked_fill_(unused[arg.name].expand_as(view), garbage)


def _run(
    session: WorkerSession, arena: Arena, device: Device, task: Task, case: Case, layout: Layout, seconds: float,
    unused: Mapping[str, torch.Tensor] | None = None,
) -> Observation:
    memory = arena.view[..., : layout.size]
    fill_slots(memory, layout, case.seed)
    for which, slot in enumerate(layout.slots):
        write_slot(memory, task, slot, case.args, which, unused or {})
    image = memory.clone()
    device.synchronize()
    session.bind([slot.arguments for slot in layout.slots])
    session.setup([0, 1], seconds)
    session.run([0, 1], seconds)
    private = memory.clone()
    outputs = {arg.name: [view_of(private, slot.refs[arg.name]) for slot in layout.slots] for arg in task.outputs}
    return Observation(outputs, *touched(task, layout, private, image))
