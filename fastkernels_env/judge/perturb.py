"""Changes of a case's inputs that must change its outputs, and whether they did.

One element of every floating-point argument changes, at a secret place, so strongly that the oracle moves visibly. A submission that
never reads that place, or that answers from memory, gives the old outputs. A task may add changes of structure (`Task.perturbed`).
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, NamedTuple

import torch

from ..task import Arg, Role, Task
from .cases import Case
from .verify import gate_of

if TYPE_CHECKING:
    from ..task import Value

VISIBLE = 8.0
"""Gates by which some element of the oracle must move."""
_MOVED = 4.0
"""Gates from which on an element counts as moved."""
_MOST_MISSING = 0.5
"""Share of the movement (RMS) that an output may lack."""
_STRENGTHS = (16.0, -16.0, 256.0, -256.0, 4096.0)
"""Changes that are tried in turn, in units of the RMS of the element's row."""


class Change(NamedTuple):
    """A changed case.

    Attributes:
        label: What was changed.
        case: Changed inputs, and the oracle on them.
        before: The oracle on the unchanged inputs.
    """

    label: str
    case: Case
    before: dict[str, torch.Tensor]


def draw_changes(task: Task, case: Case, rng: random.Random) -> list[Change]:
    """One change for every floating-point argument, where one is visible in the oracle, and the task's own."""
    unused = task.unused(case.args)
    changes = []
    for arg in task.signature:
        value = case.args.get(arg.name)
        if arg.role in (Role.INPUT, Role.WEIGHT, Role.INOUT) and isinstance(value, torch.Tensor) and value.is_floating_point():
            changes += _element(task, case, arg, value, unused.get(arg.name), rng)
    for label, args in task.perturbed(case.args, rng).items():
        changes += visible(task, case, label, args)
    return changes


def _element(task: Task, case: Case, arg: Arg, value: torch.Tensor, unused: torch.Tensor | None, rng: random.Random) -> list[Change]:
    for strength in _STRENGTHS:
        place = _place(value.shape, unused, rng)
        if place is None:
            return []
        changed = value.clone()
        row = value[place[:-1]].double()
        scale = float(row[row.isfinite()].square().mean().sqrt()) or 1.0
        largest = torch.finfo(value.dtype).max  # eight-bit floats have no room for a strong change
        changed[place] = min(max(float(changed[place]) + strength * scale, -largest), largest)
        found = visible(task, case, f"one element of {arg.name!r}", {**case.args, arg.name: changed})
        if found:
            return found
    return []


def _place(shape: torch.Size, unused: torch.Tensor | None, rng: random.Random) -> tuple[int, ...] | None:
    """Where to change: any element, but none without meaning."""
    if not all(shape):
        return None
    place = [rng.randrange(extent) for extent in shape]
    if unused is not None:
        used = (~unused).nonzero()
        if not len(used):
            return None
        chosen = used[rng.randrange(len(used))].tolist()
        place = [own if extent == 1 < whole else at for own, at, extent, whole in zip(place, chosen, unused.shape, shape, strict=True)]
    return tuple(place)


def visible(task: Task, case: Case, label: str, args: dict[str, Value]) -> list[Change]:
    """The change of a case to these arguments, if the oracle moves enough under it."""
    expected = task.oracle(args)
    change = Change(label, case._replace(args=args, expected=expected), case.expected)
    moved = [float(_gates(task, change, arg).max()) for arg in _followed(task) if expected[arg.name].numel()]
    finite = all(bool(expected[arg.name].double().isfinite().all()) for arg in task.outputs)
    return [change] if finite and max(moved, default=0.0) >= VISIBLE else []


def _followed(task: Task) -> list[Arg]:
    """Outputs whose movement tells: not indices, and what has a measure of its own only where there is nothing else."""
    untied = [arg for arg in task.outputs if not arg.ties]
    return [arg for arg in untied if arg.name not in task.measures] or untied


def _gates(task: Task, change: Change, arg: Arg) -> torch.Tensor:
    """How far every element of an output moves, in gates."""
    old, new = change.before[arg.name].double(), change.case.expected[arg.name].double()
    gate = gate_of(task, change.case, arg)
    return (new - old).abs() / (gate.atol + gate.rtol * new.abs()).clamp_min(1e-30)


def missing_movement(task: Task, change: Change, outputs: dict[str, torch.Tensor]) -> str:
    """Which output did not follow a change, or an empty string."""
    for arg in _followed(task):
        old, new = change.before[arg.name].double(), change.case.expected[arg.name].double()
        moved = _gates(task, change, arg) > _MOVED
        if not bool(moved.any()):
            continue
        lack = (outputs[arg.name].double() - new)[moved].square().sum().sqrt() / (new - old)[moved].square().sum().sqrt()
        if not float(lack) <= _MOST_MISSING:
            return f"{arg.name} does not follow a change of {change.label}: {float(lack):.0%} of the movement is missing"
    return ""
