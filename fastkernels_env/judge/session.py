"""The judge's side of a worker: requests with deadlines, memory handed over, the end told apart."""

from __future__ import annotations

import itertools
import os
import select
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..clock import now
from ..device import Arena, Clock
from ..device.base import ClockLost, ClockTimeout
from ..protocol import (
    ArgValue,
    Arm,
    Attach,
    Bind,
    Capture,
    Changes,
    Channel,
    Closed,
    Detach,
    Done,
    Ended,
    Failed,
    Join,
    Load,
    ProtocolError,
    Raised,
    Register,
    Reply,
    Request,
    Run,
    Setup,
    Spawned,
    Step,
    Trace,
    Watch,
)
from ..protocol import Clock as ClockRequest
from ..sandbox import tree
from ..sandbox.layers import Report
from .errors import StepFailed, WorkerDied, WorkerError, WorkerRaised, WorkerTimedOut

if TYPE_CHECKING:
    from .host import WorkerHost


_MOST_FIGURES = 256
_MOST_DETAIL = 500
"""What is kept of a worker's own statements: they go into the record."""


class WorkerSession:
    """A live worker. Every request raises a `WorkerError` if the submission misbehaves; the worker is then ended.

    Attributes:
        pid: The worker's process id.
        helpers: Processes of the fork server's own, when this worker was started.
        members: The processes in which its code runs: itself, or its ranks.
        scratch: Its private folder.
        report: What holds it; None for a baseline's.
    """

    def __init__(
        self, host: WorkerHost, worker: int, spawned: Spawned, channel: Channel, clock: Clock, log: int, scratch: Path, trusted: bool
    ) -> None:
        self.pid, self.scratch = spawned.pid, scratch
        self.helpers = spawned.helpers
        self.members = [spawned.pid]
        self._top, self._trusted = spawned.top, trusted
        self.report = None if trusted else Report.of_tree(spawned.missing)
        self._stopped: list[int] = []
        self._host, self._worker, self._channel, self._clock, self._log = host, worker, channel, clock, log
        self._ended: Ended | None = None
        self._attached: dict[int, Arena] = {}
        self._workspace: Arena | None = None

    def load(self, request: Load, seconds: float) -> Done:
        """Load an artefact. A submission's worker cannot see its file and gets it as a descriptor."""
        if self._trusted:
            return self._request(request, seconds)
        with open(request.path, "rb") as artifact:
            return self._request(request, seconds, (artifact.fileno(),))

    def join(self, workspace: Arena, seconds: float = 60.0) -> None:
        """Let all ranks form a group, with memory that each reaches; the worker's end closes it. Nothing of a submission has run yet."""
        self._workspace = workspace
        self._request(Join(workspace.size), seconds, workspace.descriptors)
        self.members = tree.descendants(self.pid)

    def attach(self, arena: Arena, seconds: float = 30.0) -> int:
        """Map an arena into the worker; returns the number that references use."""
        number = len(self._attached)
        self._attached[number] = arena
        self._request(Attach(number, arena.size), seconds, arena.descriptors)
        return number

    def detach(self, seconds: float = 30.0) -> None:
        """Let the worker forget every arena and call."""
        self._attached.clear()
        self._request(Detach(), seconds)

    def forget(self) -> None:
        """Detach if anything is attached."""
        if self._attached and self._ended is None:
            self.detach()

    def bind(self, calls: list[list[ArgValue]], seconds: float = 60.0) -> None:
        """Set the argument lists that later requests refer to by index."""
        self._request(Bind(calls), seconds)

    def setup(self, calls: Sequence[int], seconds: float) -> dict[str, float]:
        """Run `prepare` and `plan` for these calls; microseconds per call as reported."""
        return self._request(Setup(list(calls)), seconds).data

    def run(self, calls: Sequence[int], seconds: float) -> Done:
        """Run calls once and synchronise."""
        return self._request(Run(list(calls)), seconds)

    def arm(self, sequences: list[list[int]], graph: bool, seconds: float, unseen: int = 0) -> str:
        """Prepare sequences for the clock; ``graph``, ``eager``, or ``eager: why not graph``.

        What must be captured is captured before the worker hears of the sequences. The device runs the last `unseen` of them only when
        they are clocked.
        """
        mode = "graph" if graph else "eager"
        if graph:
            calls = sorted({call for sequence in sequences for call in sequence})
            mode = self._request(Capture(calls), seconds).detail
        armed = self._request(Arm(sequences, mode == "graph", unseen), seconds).detail
        return armed if mode in ("graph", "eager") else mode

    def trace(self, calls: Sequence[int], seconds: float) -> dict[str, float]:
        """Reported device microseconds by kernel name."""
        return self._request(Trace(list(calls)), seconds).data

    def watch(self, stack: bool, seconds: float) -> None:
        """Remember the global state, once the compile stack is imported if `stack`; call it before `load`."""
        self._request(Watch(stack), seconds)

    def changes(self, seconds: float) -> str:
        """What of the global state changed since `watch`, as reported; empty if nothing did."""
        return self._request(Changes(), seconds).detail

    def register(self, schema: str, ops: dict[str, str], seconds: float) -> None:
        """Register the entry as an operator; where ops are loaded, those (by name, with their schemas).

        Raises:
            StepFailed: It cannot be; the worker lives on, as after a failed `step`.
        """
        self._request(Register(schema, ops), seconds)

    def step(self, way: str, calls: Sequence[int], seconds: float) -> dict[str, float]:
        """Run calls one of the gate's ways; figures as reported.

        Raises:
            StepFailed: The submission raised.
        """
        return self._request(Step(way, list(calls)), seconds).data

    def time(
        self, sequences: Sequence[int], seconds: float, gather: Callable[[], torch.Tensor], seal: Callable[[], None] | None = None,
        sealed: int = 1,
    ) -> tuple[list[float], torch.Tensor]:
        """Run armed sequences one after the other under the judge's clock.

        Args:
            sequences: Indices of armed sequences.
            seconds: Deadline of each.
            gather: Reads words of every output.
            seal: Called right before the sealed sequences, while every process of the worker is stopped; they go on once "go" is there.
            sealed: How many sequences follow `seal`: the last ones. Words are gathered after the last of them only.

        Returns:
            Seconds of each from "go" until `gather` has read every output, and the words that it read after the last.
        """
        self._send(ClockRequest(), seconds)
        elapsed, words, first = [], torch.empty(0), len(sequences) - sealed
        try:
            self._clock.start(seconds, self._alive)
            for place, sequence in enumerate(sequences):
                release = None
                if seal is not None and place == first:
                    self.pause()
                    seal()
                    release = self.resume
                read = gather if seal is None or place < first or place == len(sequences) - 1 else _nothing
                spent, words = self._clock.run(sequence, seconds, self._alive, read, release)
                elapsed.append(spent)
            self._clock.stop()
        except ClockTimeout:
            raise self._timeout(f"the timed block did not finish within {seconds:.0f} s") from None
        except ClockLost:
            self._receive(now() + 1.0, seconds)
            raise self._death() from None
        self._receive(now() + seconds, seconds)
        return elapsed, words

    def pause(self) -> None:
        """Stop every process of the worker; returns when no thread of them runs. Idempotent."""
        if self._ended is None and not self._stopped:
            self._stopped = tree.stop(self._top)

    def resume(self) -> None:
        """Let them go on."""
        stopped, self._stopped = self._stopped, []
        if stopped:
            tree.resume(stopped, self.pid)

    def rest(self) -> None:
        """Stop it until it is asked for something: who stops all that runs on a device has less to do. Ranks that cannot answer each
        other for minutes would give up, so they go on.
        """
        if len(self.members) == 1:
            self.pause()

    def processes(self) -> list[int]:
        """Process ids of the worker and of what it started, as this process sees them; empty if it has ended."""
        if self._ended is not None:
            return []
        below = tree.descendants(self._top)
        return below[below.index(self.pid):] if self.pid in below else [self.pid, *below] if self.pid == self._top else below

    def tasks(self) -> int:
        """Number of its processes and threads."""
        return sum(map(tree.threads, self.processes()))

    def close(self) -> None:
        """End the worker, every descendant, and its scratch folder. Idempotent."""
        if self._ended is None:
            self._end()

    @property
    def living(self) -> bool:
        """Whether the worker has not ended, as far as anyone knows. Ask between requests."""
        return self._ended is None and self._alive()

    def output(self) -> str:
        """The end of what the worker printed."""
        from .host import read_log

        return read_log(self._log) if self._ended is None else self._last_output

    def _alive(self) -> bool:
        return not select.select([self._channel.sock], [], [], 0)[0]

    def _request(self, request: Request, seconds: float, fds: tuple[int, ...] = ()) -> Done:
        self._send(request, seconds, fds)
        return self._receive(now() + seconds, seconds, isinstance(request, Watch | Changes | Register | Step))

    def _send(self, request: Request, seconds: float, fds: tuple[int, ...] = ()) -> None:
        if self._ended is not None:
            raise self._death()
        self.resume()
        try:
            self._channel.send(request, fds, now() + seconds)
        except Closed:
            raise self._death() from None
        except TimeoutError:
            raise self._timeout(f"a request was not read within {seconds:.0f} s") from None

    def _receive(self, deadline: float, seconds: float, may_fail: bool = False) -> Done:
        try:
            reply, fds = self._channel.receive(Reply, deadline)
        except Closed:
            raise self._death() from None
        except TimeoutError:
            raise self._timeout(f"no answer within {seconds:.0f} s") from None
        except ProtocolError as error:
            self._end()
            raise WorkerDied(f"the worker broke the protocol: {error}") from None
        for fd in fds:
            os.close(fd)
        if isinstance(reply, Raised):
            self._end()
            raise WorkerRaised(_summary(reply), reply.text, reply.kind)
        if isinstance(reply, Failed) and may_fail:
            raise StepFailed(_summary(reply)[:_MOST_DETAIL], reply.kind[:_MOST_DETAIL])
        if not isinstance(reply, Done):
            self._end()
            raise WorkerDied("the worker broke the protocol: it answered a request with a failure of another kind of request")
        kept = itertools.islice(reply.data.items(), _MOST_FIGURES)
        return Done(reply.seconds, reply.detail[:_MOST_DETAIL], {name[:_MOST_DETAIL]: figure for name, figure in kept})

    def _timeout(self, summary: str) -> WorkerError:
        self._end()
        return WorkerTimedOut(summary, self._last_output)

    def _death(self) -> WorkerError:
        ended = self._ended or self._end()
        if ended.reason:
            return WorkerDied(f"the submission {ended.reason}", self._last_output)
        if ended.signal and not ended.killed:
            named = ended.signal in signal.Signals.__members__.values()
            how = f"killed by {signal.Signals(ended.signal).name if named else f'signal {ended.signal}'}"
        else:
            how = f"exited with status {ended.code}" if not ended.killed else "closed its channel"
        return WorkerDied(f"the submission's process ended: {how}", self._last_output)

    def _end(self) -> Ended:
        from .host import read_log, remove_scratch

        self.resume()
        self._ended = Ended(killed=True, code=0, signal=0)
        self._channel.close()  # a worker that waits for requests then leaves at once
        self._ended = self._host.end(self._worker)
        self._last_output = read_log(self._log)
        self._clock.close()
        if self._workspace is not None:
            self._workspace.close()
        os.close(self._log)
        remove_scratch(self.scratch)
        return self._ended


def _nothing() -> torch.Tensor:
    return torch.empty(0)


def _summary(raised: Raised | Failed) -> str:
    """The line of a traceback that names the exception; some put pages of advice after it."""
    lines = [*raised.text.strip().splitlines(), ""]
    named = next((index for index, line in enumerate(lines) if line.partition(":")[0].rpartition(".")[2] == raised.kind), len(lines) - 2)
    if named < 0:
        return raised.kind
    return f"{lines[named]} {lines[named + 1]}".strip() if lines[named].endswith(":") else lines[named]
