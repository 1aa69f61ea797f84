"""Run a worker on verification cases and compare every byte that it could have touched.

Each case is run twice in one request, on the same inputs and on outputs poisoned in two ways (NaN bits and 2^100), inside an arena
whose free bytes are canaries. The judge copies the whole arena into private memory before it looks at it.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, NamedTuple

import torch

from ..device import Arena, Device
from ..protocol import TensorRef
from ..task import Gate, Role, Task, dtype_of
from .cases import Case
from .compare import Comparison, all_close, compare
from .layout import Layout, extent_of, plan_layout, view_of

if TYPE_CHECKING:
    from .session import WorkerSession

POISONS = (float("nan"), 2.0**100)
_PATTERN = (1 << 20) + 1
INTEGER_POISONS = (0x5A5A5A5A, -0x5A5A5A5B)
SMALL_INTEGER_POISONS = (0x5A, 0x25)


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
        return view.fill_(POISONS[which] if view.dtype is not torch.float16 or which == 0 else 2.0**15)
    return view.fill_((INTEGER_POISONS if view.dtype.itemsize >= 4 else SMALL_INTEGER_POISONS)[which])


def is_poison(view: torch.Tensor) -> bool:
    """Whether an output holds one of the two poisons and nothing else."""
    blanks = (poison_(torch.empty_like(view), which) for which in (0, 1))
    return any(same_bytes(view, blank) for blank in blanks)


def fill_canary(memory: torch.Tensor) -> None:
    """Cover memory with a secret random byte pattern."""
    generator = torch.Generator(memory.device).manual_seed(secrets.randbits(62))
    pattern = torch.randint(1, 255, (_PATTERN,), dtype=torch.uint8, generator=generator, device=memory.device)
    for first in range(0, memory.numel(), pattern.numel()):
        chunk = memory[first : first + pattern.numel()]
        chunk.copy_(pattern[: chunk.numel()])


def case_layout(task: Task, case: Case) -> Layout:
    """Two calls on the same inputs, one per poison."""
    return plan_layout(task, case.workload, [case.args, case.args])


def run_case(session: WorkerSession, arena: Arena, device: Device, task: Task, case: Case, seconds: float) -> dict[str, list[torch.Tensor]]:
    """Run one case and return the judge's private copies of the outputs, by name, one per poison."""
    return _run(session, arena, device, task, case, seconds)[0]


def verify_case(
    session: WorkerSession, arena: Arena, device: Device, task: Task, case: Case, seconds: float, limits: dict[str, float] | None = None,
    earlier: dict[str, torch.Tensor] | None = None,
) -> CaseResult:
    """Run one case under the full comparison.

    Args:
        session: A worker with the artefact loaded and the arena attached as number 0.
        arena: Memory of at least ``case_layout(task, case).size`` bytes.
        device: The judge's device.
        task: The task.
        case: Inputs and oracle.
        seconds: Deadline for the calls.
        limits: Relative RMS error of a production implementation by output, where the caller has measured it.
        earlier: Right outputs of another case, by name: giving them again is no honest mistake.

    Raises:
        WorkerError: The submission raised, died or hung.
    """
    outputs, canary, mutated = _run(session, arena, device, task, case, seconds)
    failures = [_first_failure(task, case, {name: copies[which] for name, copies in outputs.items()}, limits or {}) for which in (0, 1)]
    wrong = failures[0][0] or failures[1][0]
    one_sided = bool(failures[0][0]) != bool(failures[1][0])
    poison = "the answer depends on what the output buffer held before the call" if one_sided else ""
    replayed = bool(wrong) and any(same_bytes(outputs[name][0], answer) for name, answer in (earlier or {}).items())
    return CaseResult(case, wrong, poison, canary, mutated, max(failures[0][1], failures[1][1]), replayed)


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
        gate = task.numerics.smoke[dtype_of(arg, case.workload)] if outputs[arg.name][0].is_floating_point() else Gate(0, 0)
        actual, expected = outputs[arg.name][0], case.expected[arg.name]
        if not all_close(actual, expected, gate):
            return f"{arg.name}: {compare(actual, expected, gate, 1.0).describe()} at atol=rtol={gate.rtol:g} on {case.describe()}"
    return ""


def compare_output(task: Task, case: Case, name: str, actual: torch.Tensor, baseline_rms: float = 0.0) -> Comparison:
    """Compare one output of a case under the task's numerics."""
    arg = next(arg for arg in task.outputs if arg.name == name)
    dtype = dtype_of(arg, case.workload)
    numerics = task.numerics
    gate = numerics.outputs.get(name) or numerics.gates.get(dtype, Gate(0.0, 0.0))
    return compare(actual, case.expected[name], gate, numerics.rms_floor.get(dtype, 0.0), baseline_rms)


def _first_failure(task: Task, case: Case, outputs: dict[str, torch.Tensor], limits: dict[str, float]) -> tuple[str, float]:
    worst = 0.0
    for name, actual in outputs.items():
        result = compare_output(task, case, name, actual, limits.get(name, 0.0))
        worst = max(worst, result.rms)
        if not result.ok:
            return f"{name}: {result.describe()} on {case.describe()}", worst
    return "", worst


def _run(
    session: WorkerSession, arena: Arena, device: Device, task: Task, case: Case, seconds: float
) -> tuple[dict[str, list[torch.Tensor]], str, str]:
    layout = case_layout(task, case)
    memory = arena.view[: layout.size]
    fill_canary(memory)
    for which, slot in enumerate(layout.slots):
        for arg in task.signature:
            if arg.role is Role.OUTPUT:
                poison_(view_of(memory, slot.refs[arg.name]), which)
            elif arg.role is not Role.SCALAR:
                value = case.args[arg.name]
                assert isinstance(value, torch.Tensor)
                view_of(memory, slot.refs[arg.name]).copy_(value)
    image = memory.clone()
    device.synchronize()
    session.bind([slot.arguments for slot in layout.slots])
    session.setup([0, 1], seconds)
    session.run([0, 1], seconds)
    private = memory.clone()
    outputs = {arg.name: [view_of(private, slot.refs[arg.name]) for slot in layout.slots] for arg in task.outputs}
    return outputs, *_untouched(task, layout, private, image)


def _untouched(task: Task, layout: Layout, private: torch.Tensor, image: torch.Tensor) -> tuple[str, str]:
    """Whether every byte outside the declared outputs is as it was: (canary, mutated argument)."""
    for slot in layout.slots:
        for arg in task.outputs:
            view_of(image, slot.refs[arg.name]).copy_(view_of(private, slot.refs[arg.name]))
    if torch.equal(private, image):
        return "", ""
    offsets = (private != image).nonzero().flatten()
    first = int(offsets[0])
    for slot in layout.slots:
        for name, ref in slot.refs.items():
            if ref.offset <= first < ref.offset + extent_of(ref):
                inside = _is_element(ref, first)
                return ("", name) if inside else (f"{offsets.numel()} bytes changed between the rows of {name!r}", "")
    return f"{offsets.numel()} bytes changed outside every buffer, first {_nearest(layout, first)}", ""


def _is_element(ref: TensorRef, offset: int) -> bool:
    """Whether a byte belongs to an element of a row-strided view rather than to a gap."""
    size = int(getattr(torch, ref.dtype).itemsize)
    element = (offset - ref.offset) // size
    if len(ref.shape) < 2:
        return True
    width = 1 + sum((extent - 1) * stride for extent, stride in zip(ref.shape[1:], ref.strides[1:], strict=True))
    return element % ref.strides[0] < width


def _nearest(layout: Layout, offset: int) -> str:
    """Where a stray byte lies, in words."""
    ends = [(offset - (ref.offset + extent_of(ref)), name, "after") for slot in layout.slots for name, ref in slot.refs.items()]
    starts = [(ref.offset - 1 - offset, name, "before") for slot in layout.slots for name, ref in slot.refs.items()]
    distance, name, side = min(pair for pair in ends + starts if pair[0] >= 0)
    return f"{distance} bytes {side} {name!r}"
