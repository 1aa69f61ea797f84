"""Whether timed outputs are right: what a side has answered so far, set by set.

The fp64 oracle of every output of every block would cost too much. So an output that is bit-identical to one already verified for the same
inputs is right, and any other is compared with the oracle.
"""

from __future__ import annotations

import math

import torch

from .ring import InputSets
from .verify import compare_output, is_poison


class TimedFailure(Exception):
    """A timed output was wrong. `tampered` says that the evidence cannot be an honest mistake."""

    def __init__(self, detail: str, tampered: bool) -> None:
        super().__init__(detail)
        self.detail, self.tampered = detail, tampered


class Answers:
    """Verified outputs of one side on the input sets of one workload.

    Args:
        sets: The input sets.
    """

    def __init__(self, sets: InputSets) -> None:
        self._sets = sets
        self._known: dict[str, torch.Tensor] = {}
        """Outputs by name, ``[P, ...]`` by input set; valid where `_seen`."""
        self._seen = torch.zeros(sets.geometry.slots, dtype=torch.bool, device=sets.device.torch_device)

    def check(self, order: torch.Tensor, snapshot: dict[str, torch.Tensor]) -> None:
        """Judge the outputs of a block.

        Args:
            order: Input set of every slot (int64 ``[2K]``).
            snapshot: Private copies of the outputs of the first slots, by name.

        Raises:
            TimedFailure: An output is wrong.
        """
        count = len(next(iter(snapshot.values())))
        doubtful = ~self._seen[order[:count]]
        for name, copies in snapshot.items():
            if name not in self._known:
                self._known[name] = torch.empty((len(self._seen), *copies.shape[1:]), dtype=copies.dtype, device=copies.device)
            doubtful |= ~_repeated(copies, self._known[name], order[:count])
        for slot in doubtful.nonzero().flatten().tolist():
            self._verify(int(order[slot]), slot, snapshot)

    def _verify(self, index: int, slot: int, snapshot: dict[str, torch.Tensor]) -> None:
        case = self._sets.case(index)
        for name, copies in snapshot.items():
            result = compare_output(self._sets.task, case, name, copies[slot])
            if not result.ok:
                self._fail(name, slot, copies, result.describe())
            self._known[name][index] = copies[slot]
        self._seen[index] = True

    def _fail(self, name: str, slot: int, copies: torch.Tensor, detail: str) -> None:
        """A wrong timed output is a lie if it is the answer to other inputs or if nothing was written; else it is an honest error."""
        where, actual = f"{name} of {self._sets.workload.name}", copies[slot]
        old = self._known[name][self._seen]
        others = torch.cat([copies[:slot], copies[slot + 1 :]])
        if is_poison(actual) or bool(torch.isnan(actual).all()):
            raise TimedFailure(f"a timed call wrote nothing to {where}", tampered=True)
        if bool(_rows_equal(old, actual.expand_as(old)).any()) or bool(_rows_equal(others, actual.expand_as(others)).any()):
            raise TimedFailure(f"a timed call gave {where} the answer that belongs to other inputs", tampered=True)
        raise TimedFailure(f"a timed call was wrong: {where}: {detail}", tampered=False)


def _repeated(copies: torch.Tensor, known: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """For each slot, whether its output is bit-identical to the one stored for its input set."""
    if copies.is_cuda:
        return _rows_equal(copies, known[order])
    pairs = zip(_bits(copies), order.tolist(), strict=True)
    stored = _bits(known)
    return torch.tensor([torch.equal(row, stored[index]) for row, index in pairs])


def _rows_equal(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """For each index of dimension 0, whether all bytes are equal (NaN equals NaN)."""
    same = _bits(a) == _bits(b)
    return same.reshape(a.shape[0], math.prod(a.shape[1:])).all(1)  # not -1: there may be no rows


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.dtype.itemsize])
