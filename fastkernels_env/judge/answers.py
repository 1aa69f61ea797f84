"""Whether timed outputs are right: what a side has answered so far, set by set.

The fp64 oracle of every output of every block would cost too much. So an output that equals answers already verified, rearranged as the
inputs were, is right, and any other is compared with the oracle.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Collection, Mapping, Sequence

import torch

from .. import _passes
from ..rearrange import Rows, gather, is_plain
from .cases import Case
from .compare import settle
from .sets import Arrangement, InputSets
from .verify import begin_output, is_poison

_FAR = 0.1
"""Relative error from which on a row is taken for the answer to another input, if there is one."""
_MOSTLY = 0.5
"""From this share of such rows on that are answers to other inputs, it is no honest mistake."""
_CLOSE = 0.02
"""Relative error up to which a row is the expected one times a power of two."""
_EXAMPLES = 256
_NARROW = 4
"""Rows of fewer elements resemble each other."""
_EQUAL = 1e-12
_PAST = 256
"""Right answers whose rows are recognised although they are not known ones: to sets drawn anew since, to entries seen once."""
_CHUNK = {"cpu": 1 << 22, "cuda": 1 << 25}
_TOGETHER = {"cpu": 1, "cuda": 1 << 30}
"""Bytes of oracles, or of answers, that are compared at a time: a GPU is not waited for in between, on a CPU there is nothing to gain."""
_WIDE = {torch.bfloat16: torch.float32, torch.float16: torch.float32}
"""Where differences of numbers of a dtype are exact."""
_SUBNORMAL = 2.0
"""Spacings by which an answer may differ whose double, or half, was rounded to one: half a spacing, doubled, and half of another."""


class TimedFailure(Exception):
    """A timed output was wrong.

    Args:
        detail: In one clause.
        tampered: Whether the evidence cannot be an honest mistake.
        case: The entry and its oracle, where outputs were compared with one.
        outputs: What came of it, by name.
    """

    def __init__(self, detail: str, tampered: bool, case: Case | None = None, outputs: Mapping[str, torch.Tensor] | None = None) -> None:
        super().__init__(detail)
        self.detail, self.tampered, self.case, self.outputs = detail, tampered, case, outputs or {}


class Answers:
    """Verified outputs of one side on the input sets of one workload.

    Args:
        sets: The input sets.
        limits: Relative RMS error of a production implementation by output, where it was asked for.
    """

    def __init__(self, sets: InputSets, limits: Mapping[str, float] | None = None) -> None:
        self._sets, self._limits = sets, limits or {}
        self._known: dict[str, torch.Tensor] = {}
        """Outputs by name, ``[sets, ...]``; valid where `_seen` is the set's version."""
        self._seen = torch.full_like(sets.version, -1)
        self._past: defaultdict[str, deque[torch.Tensor]] = defaultdict(lambda: deque(maxlen=_PAST))
        """Marks of the rows of the answers that were compared last, by output."""

    def check(
        self, arrangement: Arrangement, slots: slice | Sequence[int], snapshot: dict[str, torch.Tensor],
        called: Collection[int] | None = None,
    ) -> None:  # fmt: skip
        """Judge the outputs of some slots.

        Args:
            arrangement: What the slots held.
            slots: Which.
            snapshot: Private copies of their outputs, by name, ``[slots, ...]``.
            called: Places in the snapshot of those that were called; all if None. The others are not looked at.

        Raises:
            TimedFailure: An output is wrong.
        """
        current = self._seen == self._sets.version
        numbers = range(len(current))[slots] if isinstance(slots, slice) else slots
        index = slots if isinstance(slots, slice) else torch.tensor(slots).to(current.device, non_blocking=True)
        flags, due = [], dict[str, Rows]()
        for name, copies in snapshot.items():
            if name not in self._known:
                self._known[name] = torch.empty((len(current), *copies.shape[1:]), dtype=copies.dtype, device=copies.device)
            due[name] = rows = arrangement.moved.outputs[name].part(index)
            flags += [~current[rows.source // rows.source.shape[1]].all(1), ~_repeated(copies, self._known[name], rows)]
        told = torch.stack(flags).tolist()  # waiting for a device that others use too takes longer than all of the above
        unknown, others = told[::2], dict(zip(snapshot, told[1::2], strict=True))
        looked_at = range(len(numbers)) if called is None else sorted(called)
        places = [
            place for place in looked_at
            if any(one[place] for one in unknown)
            or not all(self._is_near(snapshot[name], due[name], name, place) for name in others if others[name][place])
        ]  # fmt: skip
        size = sum(8 * copies[:1].numel() for copies in snapshot.values())
        step = max(_TOGETHER[current.device.type] // max(size, 1), 1)
        for first in range(0, len(places), step):
            self._verify(arrangement, numbers, places[first : first + step], snapshot)

    def _is_near(self, copies: torch.Tensor, rows: Rows, name: str, place: int) -> bool:
        """Whether an output that differs in its bits is equal in what carries over; see `_equal`."""
        return bool(_equal(copies[place], gather(self._known[name], rows.part(slice(place, place + 1)))[0]))

    def _verify(self, arrangement: Arrangement, numbers: Sequence[int], places: Sequence[int], snapshot: dict[str, torch.Tensor]) -> None:
        self.compare({place: self._sets.case(arrangement, numbers[place]) for place in places}, snapshot)
        for place in places:
            if arrangement.kept[numbers[place]]:
                index = int(arrangement.order[numbers[place]])
                for name, copies in snapshot.items():
                    self._known[name][index].copy_(copies[place])
                self._seen[index].copy_(self._sets.version[index])

    def compare(self, cases: Mapping[int, Case], snapshot: dict[str, torch.Tensor]) -> None:
        """Compare the outputs of entries, by their places in the snapshot, with their oracles.

        Raises:
            TimedFailure: One is wrong.
        """
        each = [(place, name) for place in cases for name in snapshot]
        task, limits = self._sets.task, self._limits
        pending = [begin_output(task, cases[place], name, snapshot[name][place], limits.get(name, 0.0)) for place, name in each]
        for (place, name), result in zip(each, settle(pending), strict=True):
            if not result.ok:
                self._fail(cases[place], name, place, snapshot, result.describe())
            if snapshot[name][place].dim():
                self._past[name].append(_marks(_rows(snapshot[name][place])))

    def _fail(self, case: Case, name: str, place: int, snapshot: dict[str, torch.Tensor], detail: str) -> None:
        """A wrong timed output is a lie if it is the answer to other inputs or if nothing was written; else it is an honest error."""
        copies, outputs = snapshot[name], {other: values[place].clone() for other, values in snapshot.items()}
        where, actual = f"{name} of {self._sets.workload.name}", copies[place]
        if is_poison(actual) or bool(torch.isnan(actual).all()):
            raise TimedFailure(f"a timed call wrote nothing to {where}", True, case, outputs)
        others = [copies[:place], copies[place + 1 :]]
        if name in self._known:
            others += [self._known[name][index] for index in (self._seen >= 0).nonzero().flatten().tolist()]
        if _is_elsewhere(actual, case.expected[name], others, self._past[name]):
            raise TimedFailure(f"a timed call gave {where} the answer that belongs to other inputs", True, case, outputs)
        raise TimedFailure(f"a timed call was wrong: {where}: {detail}", False, case, outputs)


def _repeated(copies: torch.Tensor, known: torch.Tensor, rows: Rows) -> torch.Tensor:
    """For each slot, whether its output holds the bits of the known answers that belong there."""
    if copies.is_cuda and copies.is_contiguous() and is_plain(known, rows):
        return ~_passes.differing(copies, known, rows.source, rows.factor, rows.first)
    if copies.is_cuda:
        step = max(_TOGETHER["cuda"] // max(copies[0].nbytes, 1), 1) if len(copies) else 1
        parts = [slice(first, first + step) for first in range(0, len(copies), step)]
        return torch.cat([same_bits(copies[part], gather(known, rows.part(part))) for part in parts])
    pairs = ((copies[place], gather(known, rows.part(slice(place, place + 1)))[0]) for place in range(len(copies)))
    return torch.tensor([torch.equal(_bits(one), _bits(due)) for one, due in pairs])


def _equal(copy: torch.Tensor, due: torch.Tensor) -> torch.Tensor:
    """Whether outputs are equal but for what signs and powers of two do not carry over: the sign of a zero, the rounding of a subnormal."""
    same = _bits(copy) == _bits(due)
    if copy.is_floating_point():
        spacing = torch.finfo(copy.dtype).smallest_normal * torch.finfo(copy.dtype).eps
        wide = _WIDE.get(copy.dtype, torch.float64)
        same |= (copy.to(wide) - due.to(wide)).abs() <= _SUBNORMAL * spacing
    return same.all()


def same_bits(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """For each index of dimension 0, whether all bytes are equal (NaN equals NaN)."""
    same = _bits(a) == _bits(b)
    return same.reshape(a.shape[0], math.prod(a.shape[1:])).all(1)  # not -1: there may be no rows


def _is_elsewhere(actual: torch.Tensor, expected: torch.Tensor, others: Sequence[torch.Tensor], past: Sequence[torch.Tensor]) -> bool:
    """Whether rows of a wrong output occur in answers to other inputs (`past`: their marks), up to sign and a power of two.

    Rows that are the right ones times one such factor are a wrong scale; times several they are answers to what was rearranged.
    """
    if not actual.is_floating_point() or not actual.dim() or actual.shape[-1] < _NARROW:
        return False
    error = _rows(actual.double() - expected).nan_to_num(math.inf).norm(dim=1)
    wrong = (error > _FAR * _rows(expected).norm(dim=1)).nonzero().flatten()[:_EXAMPLES]
    marks = _marks(_rows(actual)[wrong])
    wrong, marks = wrong[marks != 0], marks[marks != 0]
    if not len(marks):
        return False
    factors = _factors(_rows(actual)[wrong].double(), _rows(expected)[wrong])
    if int((factors != 0).sum()) >= _MOSTLY * len(marks):
        return len({*factors.tolist()} - {0.0}) > 1
    known = torch.cat([*(_marks(_rows(other)) for other in others), *past])
    nearest = (known[:, None] - marks).abs().amin(0) if len(known) else torch.full_like(marks, math.inf)
    return int((nearest <= _EQUAL * marks.abs()).sum()) >= _MOSTLY * len(marks)


def _factors(actual: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """By which power of two, of either sign, each row is the expected one times; 0 where it is not, but for rounding."""
    ratio = (actual * expected).sum(1) / expected.square().sum(1)
    power = ratio.sign() * ratio.abs().log2().round().exp2()
    rest = (actual - power[:, None] * expected).norm(dim=1)
    return torch.where(rest <= _CLOSE * (power[:, None] * expected).norm(dim=1), power, 0.0).nan_to_num(0.0, 0.0, 0.0)


def _rows(output: torch.Tensor) -> torch.Tensor:
    """``[rows, width]``."""
    return output.reshape(-1, output.shape[-1])


def _marks(rows: torch.Tensor) -> torch.Tensor:
    """One number per row that neither its sign nor a power of two changes (float64 ``[rows]``): a projection on a fixed direction."""
    generator = torch.Generator(rows.device).manual_seed(0)
    direction = torch.rand(rows.shape[1], dtype=torch.float64, device=rows.device, generator=generator)
    step = max(_CHUNK[rows.device.type] // max(rows.shape[1], 1), 1)
    marks = [_mark(rows[first : first + step], direction) for first in range(0, len(rows), step)]
    return torch.cat(marks) if marks else direction[:0]


def _mark(rows: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    values = rows.double().nan_to_num(0.0, 0.0, 0.0)
    projected = torch.ldexp((values * direction).sum(1).abs(), -torch.frexp(values.abs().amax(1)).exponent)
    return projected * (values != values[:, :1]).any(1)  # rows of one value, poison among them, belong to nobody


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.dtype.itemsize])
