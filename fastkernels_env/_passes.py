"""Units filled in, recognised, and errors summed in one pass over memory each, by the kernels in `_kernels`.

Judges share a GPU's memory bandwidth, and what they do with it is most of what an evaluation takes of it: torch's operations would read
and write everything several times, two bytes at a time. Whoever calls these has an equivalent in torch for CPUs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

_BLOCK = 4096
"""Elements that a program moves, at most."""
_TILE = (8, 128, 8)
"""Rows and columns of errors that a program holds at a time, and how many times rows it goes through."""
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
NARROW = frozenset({torch.bfloat16, torch.float16, torch.float32})
"""What `errors` takes."""


class Lines(NamedTuple):
    """Where the elements of a slot lie: runs of so many, so far from each other. One run if it is dense."""

    run: int
    stride: int


def lines_of(view: torch.Tensor) -> Lines | None:
    """How each ``view[i]`` lies in memory; None if not in runs at equal distances."""
    run, dims = 1, [(size, stride) for size, stride in zip(view.shape[1:], view.stride()[1:], strict=True) if size != 1]
    while dims and dims[-1][1] == run:
        run *= dims.pop()[0]
    if not dims:
        return Lines(run, run)
    stride = dims[-1][1]
    while len(dims) > 1:
        size, inner = dims.pop()
        if dims[-1][1] != size * inner:
            return None
    return Lines(run, stride)


def fill(
    target: torch.Tensor, stack: torch.Tensor, source: torch.Tensor, factor: torch.Tensor | None, first: int, lines: Lines
) -> None:
    """Write the units that `source` names into a target; see `rearrange.fill`.

    Args:
        target: ``[slots, ...]``.
        stack: ``[sets, ...]``, dense.
        source: int64 ``[slots, U]``.
        factor: float32 ``[slots, U]``, or None for ones.
        first: First element of the last dimension that is multiplied.
        lines: Of the target.
    """
    from ._kernels import fill_units

    units, length, block, chunks = _units(stack, source)
    if not length or not len(source):
        return
    width, (into, values) = stack.shape[-1], _raw(factor is not None, target, stack)
    fill_units[(source.numel() * chunks,)](
        into, values, source.contiguous(), _factor(factor, source), units, chunks, length, target.stride(0), lines.run, lines.stride,
        width, first, SCALED=factor is not None, WIDE=_wide(stack), DENSE=lines.run == lines.stride, BLOCK=block,
    )  # fmt: skip


def differing(copies: torch.Tensor, stack: torch.Tensor, source: torch.Tensor, factor: torch.Tensor | None, first: int) -> torch.Tensor:
    """Which copies are not the units that `source` names, bit for bit (bool ``[slots]``).

    Args:
        copies: ``[slots, ...]``, dense.
        stack: As for `fill`, of the same dtype.
        source: As for `fill`.
        factor: As for `fill`.
        first: As for `fill`.
    """
    from ._kernels import differing_slots

    units, length, block, chunks = _units(stack, source)
    wrong = torch.zeros(len(source), dtype=torch.int32, device=copies.device)
    if length and len(source):
        (seen, values), bits = _raw(factor is not None, copies, stack), _triton(_BITS[copies.dtype.itemsize])
        differing_slots[(source.numel() * chunks,)](
            wrong, seen, values, source.contiguous(), _factor(factor, source), units, chunks, length, stack.shape[-1], first,
            SCALED=factor is not None, WIDE=_wide(stack), BITS=bits, BLOCK=block,
        )  # fmt: skip
    return wrong.bool()


def words(view: torch.Tensor) -> torch.Tensor | None:
    """The same memory as int64 ``[slots, words]``, eight bytes of which are written at a time; None where slots are not whole words.

    Args:
        view: ``[slots, ...]``; slots may be further apart than they are long.
    """
    if not view.numel() or not view[0].is_contiguous():
        return None
    length, size = view[0].numel(), view.dtype.itemsize
    if any(count * size % 8 for count in (length, view.stride(0), view.storage_offset())):
        return None
    return view.as_strided((len(view), length), (view.stride(0), 1)).view(torch.int64)


class Errors(NamedTuple):
    """What `errors` found.

    Attributes:
        cells: Sums of squared errors, of squares and of squared roundings of every cell: float64 ``[3, rows * width / cell]``.
        columns: The same of every column: float64 ``[3, width]``.
        figures: Elements outside the gate; 0; the largest error in gates; 1 if all errors are finite: float64 ``[4]``.
    """

    cells: torch.Tensor
    columns: torch.Tensor
    figures: torch.Tensor


def errors(actual: torch.Tensor, expected: torch.Tensor, cell: int, relative: float, absolute: float, of_row: float) -> Errors:
    """Compare rows with the oracle.

    Args:
        actual: ``[rows, width]``, dense, of a dtype in `NARROW`.
        expected: float64 ``[rows, width]``.
        cell: Elements of a cell, a divisor of the width.
        relative: Tolerance of an element as a share of it.
        absolute: What is added to that.
        of_row: Least tolerance as a share of the row's root mean square.
    """
    from ._kernels import error_sums

    (rows, width), (tall, wide, steps) = actual.shape, _TILE
    actual, expected = actual.contiguous(), expected.contiguous()
    wide = min(wide, _power(cell))
    tall = max(tall, min(_TILE[0] * _TILE[1] // wide, 64))
    blocks, chunks = -(-rows // (tall * steps)), -(-cell // wide)
    tiles = width // cell * chunks

    def new(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.float64, device=actual.device)

    cells, columns, figures = new(3, rows * width // cell, chunks), new(3, blocks, width), new(blocks * tiles, 3)
    roots = torch.linalg.vector_norm(expected, dim=1) / width**0.5 if of_row else expected.new_zeros(rows)
    error_sums[(blocks * tiles,)](
        cells, columns, figures, actual, expected, roots, rows, width, cell, chunks, tiles, relative, absolute, of_row,
        STEPS=steps, ROWS=tall, COLUMNS=wide,
    )  # fmt: skip
    outside, gates, total = figures[:, 0].sum(), figures[:, 1].amax(), figures[:, 2].sum()
    seen = torch.stack([outside, torch.zeros_like(outside), gates, torch.isfinite(total).double()])
    return Errors(cells.sum(2), columns.sum(1), seen)


def _units(stack: torch.Tensor, source: torch.Tensor) -> tuple[int, int, int, int]:
    """Units of a slot, elements of a unit, elements of a program, programs of a unit."""
    units = source.shape[1]
    length = stack[:1].numel() // units if units else 0
    block = min(_power(max(length, 1)), _BLOCK)
    return units, length, block, -(-length // block)


def _power(size: int) -> int:
    return 1 << (size - 1).bit_length()


def _raw(scaled: bool, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """As integers of the same size, where nothing is computed with them."""
    return tensors if scaled else tuple(tensor.view(_BITS[tensor.dtype.itemsize]) for tensor in tensors)


def _factor(factor: torch.Tensor | None, source: torch.Tensor) -> torch.Tensor:
    return source if factor is None else factor.contiguous()


def _wide(stack: torch.Tensor) -> object:
    return _triton(torch.float64 if stack.dtype is torch.float64 else torch.float32)


def _triton(dtype: torch.dtype) -> object:
    import triton.language as tl

    return getattr(tl, str(dtype).removeprefix("torch."))
