"""Calls as CUDA graphs: each is captured on its own, rows are put together of them afterwards.

A submission's Python and host code run while its calls are captured, and can look around. By then nobody has said which calls make up
a row: what a call leaves to another one is missing from rows that lack that one.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch


class Graphs:
    """Captured calls of one binding.

    Args:
        run: Runs one call on the current stream.
    """

    def __init__(self, run: Callable[[int], None]) -> None:
        self._run = run
        self._calls: dict[int, torch.cuda.CUDAGraph] = {}

    def clear(self) -> None:
        """Forget all: arguments or plans changed."""
        self._calls = {}

    def capture(self, calls: Iterable[int]) -> None:
        """Capture those of these calls that have no graph yet; what one of them raises is raised on."""
        missing = [call for call in dict.fromkeys(calls) if call not in self._calls]
        if not missing:
            return
        pool = next(iter(self._calls.values())).pool() if self._calls else torch.cuda.graph_pool_handle()
        with capturing():
            for call in missing:
                self._calls[call] = captured(functools.partial(self._run, call), torch.cuda.CUDAGraph(keep_graph=True), pool)

    def rows(self, sequences: Sequence[Sequence[int]], unseen: int) -> list[Callable[[], None]]:
        """A launch for each row of captured calls, on the current stream; all but the last `unseen` have run once when this returns.

        It captures nothing: a submission that could put its capture off until here would see the rows.
        """
        from .. import _cuda

        rows = [_cuda.Row([self._calls[call].raw_cuda_graph() for call in sequence]) for sequence in sequences]
        stream, seen = torch.cuda.current_stream().cuda_stream, len(rows) - unseen
        for row in rows[:seen]:
            row.launch(stream)
        for row in rows[seen:]:
            row.upload(stream)
        torch.cuda.synchronize()
        return [functools.partial(_launch, row) for row in rows]


@contextlib.contextmanager
def capturing() -> Iterator[None]:
    """On a stream that can be captured."""
    from .. import _cuda

    torch.cuda.synchronize()
    with _cuda.new_stream() as stream, torch.cuda.stream(stream):
        yield


def captured(run: Callable[[], None], graph: torch.cuda.CUDAGraph, pool: Any = None) -> torch.cuda.CUDAGraph:
    """The graph, with what `run` launches on the current stream in it; what that raises is raised on."""
    graph.capture_begin(pool=pool)
    try:
        run()
    except BaseException:
        with contextlib.suppress(RuntimeError):  # that it cannot become a graph is no news
            graph.capture_end()
        raise
    graph.capture_end()
    return graph


def _launch(row: Any) -> None:
    row.launch(torch.cuda.current_stream().cuda_stream)
