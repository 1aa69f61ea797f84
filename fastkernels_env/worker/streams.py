"""Calls on other streams and another device than the current ones (CUDA).

Streams start late, held by a kernel that only waits: what is launched elsewhere, or shares memory with a call of another stream,
then reads and writes at the wrong time.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from .session import Session

_DELAY_CYCLES = 30_000_000
"""About 15 ms at 2 GHz: longer than the host needs for its launches."""


def run_on_side_stream(session: Session, target: int, source: int, result: int) -> None:
    """Run a call on a stream whose producer is late and whose consumer takes the outputs away at once.

    Args:
        session: Has the calls bound.
        target: The call; its floating-point inputs hold rubbish until the producer has run.
        source: A call whose inputs the producer copies.
        result: A call into whose outputs the consumer copies.
    """
    from .._cuda import new_stream

    with new_stream() as stream, torch.cuda.stream(stream), session.stream():
        torch.cuda._sleep(_DELAY_CYCLES)  # type: ignore[no-untyped-call]
        for place in _late(session, target):
            session.tensors[target][place].copy_(session.tensors[source][place])
        session.run([target])
        for place in _written(session):
            session.tensors[result][place].copy_(session.tensors[target][place])
        stream.synchronize()


def run_on_two_streams(session: Session, calls: list[int]) -> None:
    """Run calls on two streams in turn, all launched before the first may start."""
    from .._cuda import new_stream

    with contextlib.ExitStack() as held:
        holder, *pair = (held.enter_context(new_stream()) for _ in range(3))
        begin = torch.cuda.Event()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(holder):
            torch.cuda._sleep(_DELAY_CYCLES)  # type: ignore[no-untyped-call]
            begin.record()
        for stream in pair:
            stream.wait_event(begin)
        for number, index in enumerate(calls):
            with torch.cuda.stream(pair[number % 2]), session.stream():
                session.run([index])
        torch.cuda.synchronize()


def run_on_second_device(session: Session, target: int, result: int) -> None:
    """Run a copy of a call on device 1 while device 0 is current; its outputs go into another call's on device 0."""
    moved = [_moved(value) if isinstance(value, torch.Tensor) else value for value in session.tensors[target]]
    index = len(session.tensors)
    session.tensors.append(moved)
    session.calls.append(session.as_entry_takes(moved))
    torch.cuda.synchronize(1)
    session.setup([index])
    with session.stream():
        session.run([index])
    torch.cuda.synchronize(1)
    for place in _written(session):
        session.tensors[result][place].copy_(moved[place])


def _moved(value: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cuda:1").copy_(value)


def _late(session: Session, index: int) -> list[int]:
    return [place for place, value in enumerate(session.tensors[index]) if is_late(session.roles[place], value)]


def is_late(role: str, value: Any) -> bool:
    """Whether an argument comes late: floating-point activations do; indices must be valid at any time."""
    return role in ("input", "inout") and isinstance(value, torch.Tensor) and value.is_floating_point()


def _written(session: Session) -> list[int]:
    return [place for place, role in enumerate(session.roles) if role in ("output", "inout")]
