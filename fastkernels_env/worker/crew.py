"""A worker of several ranks: a lead that runs nothing of the submission, and a process for each rank below it.

The lead takes the judge's requests, deals them out, and answers for all. A rank that raises is answered at once, since the others may wait
for it for ever; one that dies takes the lead with it, in the same way, so that the judge sees how it ended.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Collection, Sequence
from typing import Any

import msgspec
import torch

from ..protocol import Bind, Channel, Closed, Done, Failed, Join, Raised, Reply
from ..sandbox import linux

_GRACE = 1.0
"""Seconds in which the other ranks may answer once one has failed."""


def muster(ranks: int, cores: Collection[int]) -> tuple[int, Channel, list[tuple[int, Channel]]]:
    """Fork the ranks, each on a core of its own: PyTorch's threads, bound before, would meet on the first cores if a rank had several.

    Args:
        ranks: How many.
        cores: At least as many.

    Returns:
        In a rank: its number, and its channel to the lead. In the lead: -1, a channel that is of no use, and process id and channel of
        every rank.
    """
    crew: list[tuple[int, Channel]] = []
    for rank in range(ranks):
        mine, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            linux.die_with_parent(signal.SIGKILL)
            for _, channel in crew:
                channel.close()
            mine.close()
            _take_core(sorted(cores)[rank % len(cores)])
            return rank, Channel(theirs), []
        theirs.close()
        crew.append((pid, Channel(mine)))
    return -1, crew[0][1], crew


def _take_core(core: int) -> None:
    """Keep to one core; code that brings an OpenMP of its own reads the number of threads from the environment."""
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


def deal(request: msgspec.Struct, fds: Sequence[int], crew: Sequence[tuple[int, Channel]]) -> None:
    """Hand a request to every rank: of a call its own arguments, of descriptors its own one, but all of the workspace's."""
    for rank, (pid, channel) in enumerate(crew):
        part: msgspec.Struct = request
        if isinstance(request, Bind):
            part = Bind([call[len(call) * rank // len(crew) : len(call) * (rank + 1) // len(crew)] for call in request.calls])
        own = tuple(fds) if isinstance(request, Join) else tuple(fds[rank : rank + 1])
        try:
            channel.send(part, own)
        except Closed:
            _end_like(pid)


def collect(crew: Sequence[tuple[int, Channel]]) -> Reply:
    """Wait for every rank's answer, or for the first failure; the answer of all."""
    replies: dict[int, Reply] = {}
    deadline = float("inf")
    while len(replies) < len(crew) and (left := deadline - time.monotonic()) > 0:
        waiting = {channel.sock.fileno(): rank for rank, (_, channel) in enumerate(crew) if rank not in replies}
        for fd in select.select(list(waiting), [], [], None if left == float("inf") else left)[0]:
            rank = waiting[fd]
            pid, channel = crew[rank]
            try:
                reply: Any = channel.receive(Reply)[0]
            except Closed:
                _end_like(pid)
            replies[rank] = reply
            if not isinstance(reply, Done):
                deadline = min(deadline, time.monotonic() + _GRACE)
    return _merge(replies, len(crew))


def _merge(replies: dict[int, Reply], ranks: int) -> Reply:
    """One answer for all: the gravest; of successes the longest time and the largest figures."""
    for rank in sorted(replies):
        reply = replies[rank]
        if isinstance(reply, Raised):
            return Raised(reply.kind, f"Rank {rank}:\n{reply.text}")
    for rank in sorted(replies):
        reply = replies[rank]
        if isinstance(reply, Failed):
            text = f"Rank {rank}:\n{reply.text}"
            return Failed(reply.kind, text) if len(replies) == ranks else Raised(reply.kind, text)  # the others wait for it for ever
    done = [reply for reply in replies.values() if isinstance(reply, Done)]
    figures: dict[str, float] = {}
    for reply in done:
        figures = {name: max(figures.get(name, value), value) for name, value in (*figures.items(), *reply.data.items())}
    return Done(max(reply.seconds for reply in done), max((reply.detail for reply in done), key=len), figures)


def _end_like(pid: int) -> None:
    """End this process as one of its children has ended."""
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
