"""The demonstration: good, slow, wrong and cheating kernels for `moe_gemm`, judged on this machine one after the other.

The sources lie in ``demo_kernels``; each says in its first line what it shows. The fast and right one is the task's own seed.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from .build import has_nvcc
from .registry import load_task
from .report import WIDTH, outcome_style
from .reward import load_preset
from .types import BaselineReport, Evaluation, Outcome, Reward

if TYPE_CHECKING:
    from .evaluator import Evaluator

TASK = "moe_gemm"
_FOLDER = Path(__file__).parent / "demo_kernels"
_REASON_CHARS = 92


class Exhibit(NamedTuple):
    """A submission of the demonstration.

    Attributes:
        name: Shown in the table.
        file: In ``demo_kernels``, or ``seeds/<file>`` of the task.
        expected: The outcome that it must get.
        effort: ``full`` where the speed is the point.
    """

    name: str
    file: str
    expected: Outcome
    effort: str = "quick"

    def read(self) -> str:
        """The text to submit."""
        seed = self.file.removeprefix("seeds/")
        return load_task(TASK).seeds()[seed] if seed != self.file else (_FOLDER / self.file).read_text()


class Shown(NamedTuple):
    """What became of an exhibit."""

    exhibit: Exhibit
    evaluation: Evaluation
    reward: Reward
    seconds: float

    @property
    def as_expected(self) -> bool:
        """Whether it got the outcome that it must get."""
        return self.evaluation.outcome is self.exhibit.expected


CPU_EXHIBITS = (
    Exhibit("fast and right", "seeds/cpu.cpp", Outcome.ACCEPTED, "full"),
    Exhibit("right but slow", "slow.cpp", Outcome.ACCEPTED),
    Exhibit("wrong", "wrong.cpp", Outcome.WRONG),
    Exhibit("silently wrong", "silent.cpp", Outcome.SILENT_ERROR),
    Exhibit("does not build", "no_build.cpp", Outcome.BUILD_FAILED),
    Exhibit("crashes", "crash.cpp", Outcome.CRASHED),
    Exhibit("never returns", "hang.cpp", Outcome.TIMED_OUT),
    Exhibit("cheats", "cheat.cpp", Outcome.TAMPERED),
)
CUDA_EXHIBITS = (
    Exhibit("fast and right", "seeds/triton.py", Outcome.ACCEPTED, "full"),
    Exhibit("right, CUDA C++", "right.cu", Outcome.ACCEPTED),
    Exhibit("right but slow", "slow.py", Outcome.ACCEPTED),
    Exhibit("wrong", "wrong.py", Outcome.WRONG),
    Exhibit("silently wrong", "silent.py", Outcome.SILENT_ERROR),
    Exhibit("does not build", "no_build.md", Outcome.BUILD_FAILED),
    Exhibit("crashes", "crash.py", Outcome.CRASHED),
    Exhibit("crashes, CUDA C++", "crash.cu", Outcome.CRASHED),
    Exhibit("never returns", "hang.py", Outcome.TIMED_OUT),
    Exhibit("cheats", "cheat.py", Outcome.TAMPERED),
)


def exhibits(device: str) -> tuple[Exhibit, ...]:
    """The exhibits of a device; those in CUDA C++ only where there is a compiler for it."""
    if device == "cpu":
        return CPU_EXHIBITS
    return tuple(exhibit for exhibit in CUDA_EXHIBITS if has_nvcc() or not exhibit.file.endswith(".cu"))


def run_demo(evaluator: Evaluator, console: Console) -> list[Shown]:
    """Judge every exhibit and show what became of it, as it happens where `console` is a terminal.

    Args:
        evaluator: Of the device to use.
        console: Where to print.
    """
    chosen = exhibits(evaluator.device)
    title = f"{len(chosen)} submissions to {TASK}, judged on this machine's {evaluator.device.upper()}"
    console.print(Text(f"{title}\n", "bold"))
    preset = load_preset("production")
    shown: list[Shown] = []
    with _display(console, len(chosen)) as update:
        for exhibit in chosen:
            update(shown, exhibit.name)
            start = time.perf_counter()
            evaluation = evaluator.evaluate(TASK, exhibit.read(), effort=exhibit.effort)
            shown.append(Shown(exhibit, evaluation, preset.score(evaluation), time.perf_counter() - start))
    console.print(_table(shown))
    console.print()
    console.print(_closing(shown, evaluator.device))
    return shown


@contextlib.contextmanager
def _display(console: Console, total: int) -> Iterator[Callable[[Sequence[Shown], str], None]]:
    """A function that shows the table so far and what is being judged: redrawn on a terminal, else lines on standard error."""
    if not console.is_terminal:
        yield lambda shown, current: print(f"{len(shown) + 1} of {total}: {current}", file=sys.stderr, flush=True)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=console)
    bar = progress.add_task("", total=total)
    with Live(console=console, refresh_per_second=8, vertical_overflow="visible", transient=True) as live:
        def update(shown: Sequence[Shown], current: str) -> None:
            progress.update(bar, completed=len(shown), description=f"judging: {current}")
            live.update(Group(_table(shown), progress), refresh=True)

        yield update


def _table(shown: Sequence[Shown]) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 1, 0), width=WIDTH)
    table.add_column("submission", no_wrap=True, min_width=19)
    table.add_column("outcome", no_wrap=True, min_width=12)
    table.add_column("reward", justify="right", no_wrap=True)
    table.add_column("speedup", justify="right", no_wrap=True)
    table.add_column("why, and the parts of the reward", overflow="fold", ratio=1)
    for entry in shown:
        outcome = entry.evaluation.outcome
        total = entry.reward.total
        why: list[RenderableType] = [Text(_shortened(entry.evaluation.reason)), Text(_parts(entry.reward), "dim")]
        if not entry.as_expected:
            why.insert(0, Text(f"expected {entry.exhibit.expected.value}", "bold red"))
        table.add_row(
            Text.assemble((entry.exhibit.name, "bold"), f"\n{entry.exhibit.file}, {entry.seconds:.0f} s", style="dim"),
            Text(outcome.value.replace("_", " "), outcome_style(outcome)),
            "none" if total is None else f"{total:+.2f}",
            f"{entry.evaluation.speedup.estimate:.2f}x" if entry.evaluation.speedup else "-",
            Group(*why),
        )
    return table


def _shortened(reason: str) -> str:
    """A reason that fits two lines of the table, without control characters."""
    text = "".join(char if char.isprintable() else " " for char in reason)
    return text if len(text) <= _REASON_CHARS else f"{text[:_REASON_CHARS].rsplit(' ', 1)[0]} ..."


def _parts(reward: Reward) -> str:
    parts = (f"{name} {value:+.2f}" for name, value in reward.parts.items() if value)
    return "no reward: the fault is not its own" if reward.total is None else "  ".join(parts)


def _closing(shown: Sequence[Shown], device: str) -> RenderableType:
    """Baselines, whether all went as it must, and what to try next."""
    odd = [entry for entry in shown if not entry.as_expected]
    if odd:
        told = (f"{e.exhibit.name}: {e.evaluation.outcome.value} instead of {e.exhibit.expected.value}" for e in odd)
        verdict = Text(f"{len(odd)} of {len(shown)} did not get the outcome that they must get: {'; '.join(told)}.", "bold red")
    else:
        verdict = Text(f"All {len(shown)} got the outcome that they must get.", "bold green")
    suffix = Path(CPU_EXHIBITS[0].file if device == "cpu" else CUDA_EXHIBITS[0].file).suffix
    return Group(
        Text.assemble(("Baselines  ", "dim"), _baselines(shown)),
        Text.assemble(("Verdict    ", "dim"), verdict),
        Text(),
        Text(f"Next: fastkernels-env show {TASK} prints what a model is told; put your own kernel into a file,"),
        Text(f"and fastkernels-env evaluate {TASK} my_kernel{suffix} judges it."),
    )


def _baselines(shown: Sequence[Shown]) -> str:
    """Each baseline and whether it was used. What one evaluation used, another may have skipped at its effort."""
    reports: dict[str, BaselineReport] = {}
    for entry in shown:
        for report in entry.evaluation.baselines:
            if report.name not in reports or report.status == "used":
                reports[report.name] = report
    told = (f"{r.name} {r.status.replace('_', ' ')}{f' ({r.detail})' if r.detail else ''}" for r in reports.values())
    return "; ".join(told) or "none was needed: nothing got as far as being timed"
