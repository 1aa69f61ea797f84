"""Whether the judge's one-pass kernels say what several operations of torch say: ``one_pass.py DEVICE WHAT SEED``."""

import itertools
import random
import sys

import torch

from fastkernels_env import _passes
from fastkernels_env.judge import compare
from fastkernels_env.rearrange import Rows, gather

DEVICE, seed = sys.argv[1], int(sys.argv[3])
random.seed(seed)
torch.set_default_device(DEVICE)
generator = torch.Generator(DEVICE).manual_seed(seed)
NARROW = (torch.float32, torch.float16, *((torch.bfloat16,) if DEVICE == "cuda" else ()))
"""Triton's interpreter cuts a float off where a GPU rounds to bfloat16."""
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def units(dtype, scaled):
    slots, sets, count, lines = random.randint(1, 4), random.randint(1, 4), random.choice((1, 2, 5)), random.randint(1, 3)
    width = random.choice((1, 7, 64))
    stack = (torch.randn(sets, count * lines, width, generator=generator) * 100).to(dtype)
    source = torch.randint(sets * count, (slots, count), generator=generator)
    factor = torch.tensor([-1.0, 2.0, 0.5])[torch.randint(3, source.shape, generator=generator)] if scaled else None
    return stack, source, factor, random.randrange(width)


def fills():
    for dtype, scaled in [*itertools.product(FLOATS, (False, True)), (torch.int32, False), (torch.int64, False), (torch.uint8, False)]:
        stack, source, factor, first = units(dtype, scaled)
        for gap in (0, 3):
            memory = torch.full((len(source), *stack.shape[1:-1], stack.shape[-1] + gap), 7).to(dtype)
            target = memory[..., : stack.shape[-1]]
            lines = _passes.lines_of(target)
            _passes.fill(target, stack, source, factor, first, lines)
            assert torch.equal(target, gather(stack, Rows(source, factor, first))), (dtype, scaled, gap)
            assert bool((memory[..., stack.shape[-1] :] == 7).all())


def differences():
    for dtype, scaled in [*itertools.product(FLOATS, (False, True)), (torch.int32, False), (torch.uint8, False)]:
        stack, source, factor, first = units(dtype, scaled)
        copies = gather(stack, Rows(source, factor, first)).contiguous()
        assert not _passes.differing(copies, stack, source, factor, first).any(), (dtype, scaled)
        wrong = random.randrange(len(copies))
        bits = copies.view(_passes._BITS[dtype.itemsize])[wrong].flatten()
        bits[random.randrange(len(bits))] ^= 1
        seen = _passes.differing(copies, stack, source, factor, first)
        assert seen.tolist() == [slot == wrong for slot in range(len(copies))], (dtype, scaled, seen)


def sums():
    for dtype, cells in itertools.product(NARROW, (1, 2, 4)):
        rows, width = random.choice((1, 3, 65, 130)), random.choice((1, 5, 32, 200)) * cells
        expected = torch.randn(rows, width, dtype=torch.float64, generator=generator)
        actual = (expected * (1 + 0.01 * torch.randn(expected.shape, generator=generator))).to(dtype)
        gate, of_row = compare.Gate(random.choice((0.0, 1e-3)), 1e-3), random.choice((0.0, 0.01))
        seen = _passes.errors(actual, expected, width // cells, gate.rtol, gate.atol, of_row)
        parts = compare.Parts(rows, width, {"head": torch.arange(cells).repeat(rows)})
        due = compare._add(parts, actual, expected, compare._Rule(gate, of_row, 0.0, 0.0), False)
        assert seen.figures[[0, 1, 3]].tolist() == due[[0, 1, 3]].tolist(), (dtype, rows, width, seen.figures, due)
        assert abs(seen.figures[2] - due[2]) <= 1e-6 * due[2], (seen.figures, due)
        found = seen.cells.view(3, rows, -1).sum(2), seen.columns
        wanted = torch.cat(parts._cells, 1).view(3, rows, -1).sum(2), parts._columns
        for one, other in zip(found, wanted, strict=True):
            assert other is None or torch.allclose(one, other, rtol=1e-12, atol=0), (dtype, rows, width)
        for bad in (float("nan"), float("inf")):
            actual[random.randrange(rows), random.randrange(width)] = bad
            assert _passes.errors(actual, expected, width // cells, gate.rtol, gate.atol, of_row).figures[3] == 0


globals()[sys.argv[2]]()
