"""What the command line prints where, and how it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from .evaluator import Evaluator

NAME = "fastkernels-env"
ACCEPTED, OTHER, UNUSABLE, FAULT = range(4)
BROKEN_PIPE = 128 + signal.SIGPIPE


class Problem(Exception):
    """Ends the program: a sentence for standard error, and the exit status."""

    def __init__(self, message: str, status: int = UNUSABLE) -> None:
        super().__init__(message)
        self.status = status


class ReaderGone(Exception):
    """Whoever read standard output has closed it."""


def write(text: str) -> None:
    """Write to standard output at once, so that what goes wrong is seen here."""
    try:
        if sys.stdout is None:
            raise OSError(0, "it is closed")
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError as error:
        _drop_output()
        raise ReaderGone from error
    except (OSError, ValueError) as error:
        _drop_output()
        reason = getattr(error, "strerror", None) or error
        raise Problem(f"the result cannot be written to standard output: {reason}", FAULT) from error


def _drop_output() -> None:
    """Let what is still buffered go nowhere: the interpreter flushes it at exit and would complain."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def make_console() -> Console:
    """A console on standard output, of a fixed width where that is no terminal."""
    from rich.console import Console

    from .report import WIDTH

    terminal = sys.stdout is not None and sys.stdout.isatty()
    return Console(width=None if terminal else WIDTH, highlight=False)


def display(renderable: RenderableType) -> None:
    """Print something rich to standard output."""
    console = make_console()
    with console.capture() as capture:
        console.print(renderable)
    lines = capture.get().splitlines()
    write("".join(f"{line if console.is_terminal else line.rstrip()}\n" for line in lines))


def tell(text: str) -> None:
    """A line on standard error."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(text, file=sys.stderr, flush=True)


class StatusLine:
    """A line on standard error that says what is going on and for how long; nothing where that is no terminal."""

    def __init__(self, evaluator: Evaluator) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.spinner import Spinner

        self._evaluator = evaluator
        self._text, self._start, self._spinner = "", time.monotonic(), Spinner("dots")
        self._live = Live(
            console=Console(stderr=True), get_renderable=self._line, refresh_per_second=8, transient=True,
            redirect_stdout=False, redirect_stderr=False,
        )

    def say(self, text: str) -> None:
        """Show a text, and behind it the stage of the evaluation under way."""
        self._text = text
        if sys.stderr is not None and sys.stderr.isatty():
            self._live.start()

    def end(self) -> None:
        """Remove the line: before anything else is printed."""
        self._live.stop()

    def _line(self) -> RenderableType:
        from rich.text import Text

        stage = f": {self._evaluator.stage.value}" if self._evaluator.stage else ""
        self._spinner.text = Text(f"{self._text}{stage}  {time.monotonic() - self._start:.0f} s")
        return self._spinner


def make_table(header: Sequence[str], rows: Sequence[tuple[str, ...]]) -> RenderableType:
    """A table without lines."""
    from rich.table import Table

    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table
