"""Torn blocks: rows that begin like the timed ones and lack some of their calls.

Where blocks are graphs, every call is captured on its own before anything says which ones follow each other. Work that one call does for
another is missing from a torn block, or done where nobody asked for it. They come after the blocks that warm up and, by chance, between
rounds, and are not counted. Code on the device can remember which calls a row lacked: so there are several rows, and none of them runs
before its turn. Whether a side's blocks are graphs is its worker's word, so that every judged side has them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .answers import TimedFailure, same_bits
from .side import LONE, TORN, WAKE, Side, blamed

if TYPE_CHECKING:
    from .profile import Profiler

SHARE = 0.125
"""How often one follows a round."""
ROWS = 4
"""Torn rows of a side: about as many as there are torn blocks in one place of memory."""
_LEFT_OUT = 4
"""One of so many calls is left out."""


def tear(count: int, secret: torch.Generator) -> list[int]:
    """Calls of a torn block: the first of a row of `count`, at least half of them, without one in four."""
    cut = int(torch.randint(-(-count // 2), count + 1, (1,), generator=secret))
    out = set(torch.randperm(cut, generator=secret)[: max(cut // _LEFT_OUT, 1)].tolist())
    return [call for call in range(cut) if call not in out]


def draw(profiler: Profiler, side: Side) -> None:
    """Draw the torn rows of a side that is about to be armed: one, if it is armed before every block, none if it is not judged."""
    number = 0 if side.answers is None or not profiler.device.tears else 1 if side.replans else ROWS
    side.torn, side.tried = [tear(2 * side.calls, profiler.secret) for _ in range(number)], 0


def check(profiler: Profiler, side: Side) -> None:
    """Run a torn block of a side that is judged: what was called must be right, and nothing else written.

    Raises:
        TimedFailure: One call had done the work of another.
        SideError: The worker raised, died or hung.
    """
    if side.answers is None or not side.torn:
        return
    count = 2 * side.calls
    profiler.turns.give(side.session)
    with blamed(side):
        profiler.rearrange(count, 0.0)
        profiler.load(side, count, 0)
        row = side.tried % len(side.torn)
        side.tried += 1
        _, [(block, outputs), spare] = profiler.clocked(side, (WAKE, LONE, TORN + row), count)
    profiler.refill(side, count, 0)  # what lies there if nothing is called
    called = torch.zeros(count, dtype=torch.bool)
    called[side.torn[row]] = True
    sent = called.to(profiler.device.torch_device)
    for name, copies in outputs.items():
        if not bool((same_bits(copies, side.ring.buffers(name, block)) | sent).all()):
            raise TimedFailure(f"a timed call wrote to {name} of another call", tampered=True)
    side.answers.check(profiler.held(side), block, outputs, side.torn[row])
    profiler.check(side, [spare])
