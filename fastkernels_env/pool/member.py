"""A judge in a process of its own: takes orders, asks for the device before it measures."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Iterator
from types import FrameType

from .. import clock
from ..protocol import Channel, Closed
from .frames import Alone, Enter, FromJudge, Leave, Order, Report, Rise, Seated, Sit, ToJudge

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """``python -m fastkernels_env.pool SOCKET PAGE DEVICE STRICT PARENT``."""
    descriptor, page, device, strict, parent = sys.argv[1:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        return  # it ended before it could be followed
    clock.adopt(int(page))
    Judging(Channel(socket.socket(fileno=int(descriptor))), device, strict == "1").serve()


class Judging:
    """Serves one pool.

    Args:
        channel: To the pool.
        device: ``cpu`` or ``cuda``.
        strict: As for `Evaluator`.
    """

    def __init__(self, channel: Channel, device: str, strict: bool) -> None:
        from ..evaluator import Evaluator
        from ..judge.turnstile import Turnstile

        def tell(frame: FromJudge, answer: type[ToJudge] | None = None) -> None:
            with _undisturbed():
                channel.send(frame)
                if answer is not None:
                    channel.receive(answer)

        class Gate(Turnstile):
            """Asks the pool."""

            shared = True

            def sit(self) -> None:
                tell(Sit(), Seated)

            def rise(self) -> None:
                tell(Rise())

            def enter(self) -> None:
                tell(Enter(), Alone)

            def leave(self) -> None:
                tell(Leave())

        self._channel, self._judging = channel, False
        self._evaluator = Evaluator(device, strict=strict, turnstile=Gate())
        signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        """An order is taken back; between orders that is old news."""
        if self._judging:
            self._judging = False
            raise KeyboardInterrupt

    def serve(self) -> None:
        """Judge until the pool closes the channel."""
        with self._evaluator, contextlib.suppress(Closed):
            while True:
                order, _ = self._channel.receive(ToJudge)
                assert isinstance(order, Order)
                self._channel.send(self._judge(order))

    def _judge(self, order: Order) -> Report:
        from ..log import encode_record
        from ..registry import register_task

        try:
            self._judging = True
            self._import_all()
            if order.folder:
                register_task(order.folder)
            evaluation = self._evaluator.evaluate(**order.arguments())
            self._judging = False
            return Report(encode_record(evaluation))
        except KeyboardInterrupt:
            return Report(b"")
        except Closed:
            raise
        except Exception as error:  # nothing about a reply raises: the caller is told what is wrong with this host
            return Report(b"", f"{type(error).__name__}: {error}")
        finally:
            self._judging = False


    def _import_all(self) -> None:
        """Import what judging takes, before an interrupt can come: PyTorch that was imported in part cannot be imported again."""
        with _undisturbed():
            from ..judge import trial  # noqa: F401


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Put an interrupt off: half a message would be worse than a late end."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
