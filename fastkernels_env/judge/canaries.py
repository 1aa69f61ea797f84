"""Canary bytes: what fills an arena where no buffer lies, and how a changed byte is told.

Canaries are random, and of one of two kinds: read as floating-point numbers they are NaN, or about 2^100. A kernel that reads past a
buffer, or the gap between two rows, gives another answer under each.
"""

from __future__ import annotations

import torch

from ..protocol import TensorRef
from ..task import Task
from .layout import Layout, extent_of, part_of, view_of

_WORDS = (1 << 19) + 1
_KINDS = ((0x7FC0, 0x40), (0x7180, 0x80))
"""Lowest 16-bit word of a kind, and how many words follow it: NaN in bfloat16, float16 and float32; 2^100 to 2^101 (float16: 11,264 up)."""


def fill_canary(memory: torch.Tensor, kind: int, seed: int) -> None:
    """Cover memory (uint8, from an even address) with a random pattern of one of the two kinds, of either sign."""
    _cover(memory, _pattern(kind, seed, memory.numel(), memory.device))


def fill_slots(memory: torch.Tensor, layout: Layout, seed: int) -> None:
    """Canaries over all slots; the kinds take turns."""
    longest = max((slot.end - slot.start for slot in layout.slots), default=0)
    patterns = [_pattern(kind, seed + kind, longest, memory.device) for kind in range(len(_KINDS))]
    for number, slot in enumerate(layout.slots):
        for rank in range(memory.shape[0] if memory.dim() > 1 else 1):
            _cover(part_of(memory, rank)[slot.start : slot.end], patterns[number % len(patterns)])


def _pattern(kind: int, seed: int, nbytes: int, device: torch.device) -> torch.Tensor:
    """Random bytes for `nbytes` of memory; where that is much, they repeat at a distance that no page or tile has."""
    generator = torch.Generator(device).manual_seed(seed)
    lowest, count = _KINDS[kind]
    words = torch.randint(2 * count, (min(_WORDS, -(-nbytes // 2)),), generator=generator, device=device, dtype=torch.int32)
    words = words // 2 + lowest - words % 2 * 0x8000  # the sign is the highest bit
    return words.to(torch.int16).view(torch.uint8)


def _cover(memory: torch.Tensor, pattern: torch.Tensor) -> None:
    for first in range(0, memory.numel(), max(pattern.numel(), 1)):
        chunk = memory[first : first + pattern.numel()]
        chunk.copy_(pattern[: chunk.numel()])


def touched(task: Task, layout: Layout, private: torch.Tensor, image: torch.Tensor) -> tuple[str, str]:
    """What changed between two copies of an arena outside of the declared outputs: (where, if it was no argument; which argument).

    Args:
        task: Gives the outputs.
        layout: Of the arena.
        private: The copy after the calls.
        image: The copy before them; outputs are overwritten here.
    """
    for slot in layout.slots:
        for arg in task.outputs:
            view_of(image, slot.refs[arg.name]).copy_(view_of(private, slot.refs[arg.name]))
    if torch.equal(private, image):
        return "", ""
    places = (private != image).nonzero()
    count, first, rank = len(places), int(places[0, -1]), int(places[0, 0]) if private.dim() > 1 else 0
    for slot in layout.slots:
        for name, ref in slot.refs.items():
            if ref.rank == rank and ref.offset <= first < ref.offset + extent_of(ref):
                return ("", name) if _is_element(ref, first) else (f"{count} bytes changed between the rows of {name!r}", "")
    return f"{count} bytes changed outside every buffer, first {_nearest(layout, first, rank)}", ""


def _is_element(ref: TensorRef, offset: int) -> bool:
    """Whether a byte belongs to an element of a row-strided view rather than to a gap."""
    size = int(getattr(torch, ref.dtype).itemsize)
    element = (offset - ref.offset) // size
    if len(ref.shape) < 2:
        return True
    width = 1 + sum((extent - 1) * stride for extent, stride in zip(ref.shape[1:], ref.strides[1:], strict=True))
    return element % ref.strides[0] < width


def _nearest(layout: Layout, offset: int, rank: int) -> str:
    """Where a stray byte lies, in words."""
    refs = [(name, ref) for slot in layout.slots for name, ref in slot.refs.items() if ref.rank == rank]
    ends = [(offset - (ref.offset + extent_of(ref)), name, "after") for name, ref in refs]
    starts = [(ref.offset - 1 - offset, name, "before") for name, ref in refs]
    distance, name, side = min(pair for pair in ends + starts if pair[0] >= 0)
    return f"{distance} bytes {side} {name!r}"
